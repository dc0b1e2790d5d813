"""Fidelity is what SAELens's own evaluation says of the same autoencoder on the same tokens."""

import random

import peers  # noqa: F401  (before SAELens, so that it imports without warnings)
import pytest
import tiny
import torch
import transformers
from sae_lens import SAE
from sae_lens.evals import get_downstream_reconstruction_metrics, get_sparsity_and_variance_metrics
from sae_lens.training.activation_scaler import ActivationScaler
from transformer_lens.model_bridge import TransformerBridge

import sleave
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.behaviour import fidelity as module
from sleave.behaviour.fidelity import fidelity, heldout_contexts
from sleave.behaviour.results import figures_and_intervals
from sleave.language.contexts import Context, is_heldout
from sleave.language.corpora import read_corpora
from sleave.language.settings import FileCorpus, HarvestSettings, ModelSettings
from sleave.language.whole import WholeModel

pytestmark = pytest.mark.usefixtures("one_thread")
LAYER, LENGTH, SPECIAL = 1, 9, [0, 1, 2]
D_IN, D_SAE = 16, 40
draw = random.Random(0)
TEXTS = [Context((1, *draw.choices(range(3, 400), k=LENGTH - 1)), (False, *[True] * (LENGTH - 1)), n) for n in range(7)]


@pytest.fixture(scope="module", params=["gpt2", "gemma3"])
def folder(request, tmp_path_factory):
    return tiny.make_tiny_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def whole(folder):
    return WholeModel.load(ModelSettings(name=str(folder), dtype="float32", layers=(0,), device="cpu"))


@pytest.fixture(scope="module")
def sae(whole):
    """One that reconstructs something, and not all."""
    x = torch.cat(list(whole.residuals(TEXTS, LAYER)))
    g = torch.Generator().manual_seed(0)
    sae = ReLUAutoencoder(D_IN, D_SAE, True)
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=g), dim=1))
        sae.W_enc.copy_(sae.W_dec.t() * 0.4)
        sae.b_enc.fill_(-0.1 * float(x.std()))
        sae.b_dec.copy_(x.mean(0))
    return sae.requires_grad_(False)


class Tokens:
    """What SAELens asks an activation store for."""

    def get_batch_tokens(self, size: int) -> torch.Tensor:
        return torch.tensor([c.token_ids for c in TEXTS])


@pytest.mark.filterwarnings("ignore")  # TransformerLens's own
def test_as_sae_lens_has_it(folder, whole, sae, tmp_path):
    ours = fidelity(sae, whole, LAYER, TEXTS)
    sleave.save(sae, tmp_path / "sae")
    theirs = SAE.load_from_disk(tmp_path / "sae")
    theirs.cfg.metadata.hook_name = f"blocks.{LAYER}.hook_resid_post"
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
    expected = get_downstream_reconstruction_metrics(
        theirs, bridge, Tokens(), ActivationScaler(), True, True, 1, len(TEXTS), SPECIAL
    )
    sparsity, _ = get_sparsity_and_variance_metrics(
        theirs, bridge, Tokens(), ActivationScaler(), 1, False, True, False, False, len(TEXTS), {}, SPECIAL
    )
    names = {
        "ce_loss_clean": "ce_loss_without_sae",
        "ce_loss_spliced": "ce_loss_with_sae",
        "ce_loss_zero": "ce_loss_with_ablation",
        "ce_loss_score": "ce_loss_score",
        "kl_div_spliced": "kl_div_with_sae",
        "kl_div_zero": "kl_div_with_ablation",
        "kl_div_score": "kl_div_score",
    }
    for name, other in names.items():
        assert getattr(ours, name) == pytest.approx(expected[other], rel=1e-4), name
    assert ours.l0 == pytest.approx(sparsity["l0"])
    assert (ours.status, ours.documents, ours.tokens, ours.replaced) == ("ok", 7, 7 * (LENGTH - 1), 1)
    assert 0 < ours.kl_div_spliced < ours.kl_div_zero


def losses_by_hooks(folder, change):
    """Mean loss of a model whose residual stream after the block is changed, by transformers alone."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    blocks = model.transformer.h if hasattr(model, "transformer") else model.model.layers
    blocks[LAYER].register_forward_hook(lambda m, i, o: change(o) if isinstance(o, torch.Tensor) else (change(o[0]),))
    labels = torch.tensor([c.token_ids for c in TEXTS])
    labels[:, 1] = -100
    with torch.no_grad():
        return float(model(torch.tensor([c.token_ids for c in TEXTS]), labels=labels).loss)


def test_massive_norms_stay_as_they_are(folder, whole, sae):
    """Mean ablation and splicing of what the norm limit leaves, against hooks on the whole model."""
    stream = whole.residuals(TEXTS, LAYER)
    norm = stream.norm(dim=2)
    ratio = 1.05
    kept = norm <= ratio * norm[:, 1:].median()
    kept[:, 0] = False
    found = fidelity(sae, whole, LAYER, TEXTS, ratio)
    assert found.replaced == pytest.approx(float(kept[:, 1:].float().mean()))
    assert 0.4 < found.replaced < 0.9
    mean = stream[kept].mean(0)
    ablated = losses_by_hooks(folder, lambda x: torch.where(kept[..., None], mean, x))
    spliced = losses_by_hooks(folder, lambda x: torch.where(kept[..., None], sae(x), x))
    clean = losses_by_hooks(folder, lambda x: x)
    assert found.ce_loss_mean == pytest.approx(ablated, rel=1e-4)
    assert found.ce_loss_spliced == pytest.approx(spliced, rel=1e-4)
    assert found.ce_loss_clean == pytest.approx(clean, rel=1e-4)
    assert found.ce_loss_score_mean == pytest.approx((ablated - spliced) / (ablated - clean), rel=1e-2)


def test_neither_batches_nor_chunks_nor_order_matter(whole, sae, monkeypatch):
    short = [Context(c.token_ids[: 4 + c.document], c.keep[: 4 + c.document], c.document) for c in TEXTS[:5]]
    at_once = fidelity(sae, whole, LAYER, short)
    monkeypatch.setattr(module, "BATCH_TOKENS", 12)
    monkeypatch.setattr(module, "POSITIONS", 3)
    in_parts = fidelity(sae, whole, LAYER, short[::-1])
    for name, value in at_once.to_dict().items():
        if isinstance(value, float):
            assert getattr(in_parts, name) == pytest.approx(value, rel=1e-5), name
        elif name == "intervals":
            assert in_parts.intervals["ce_loss_score"] == pytest.approx(value["ce_loss_score"], rel=1e-5)


def test_a_perfect_autoencoder_loses_nothing(whole):
    perfect = ReLUAutoencoder(D_IN, 2 * D_IN)
    with torch.no_grad():
        perfect.W_dec.copy_(torch.cat([torch.eye(D_IN), -torch.eye(D_IN)]))
        perfect.W_enc.copy_(perfect.W_dec.t())
    found = fidelity(perfect, whole, LAYER, TEXTS)
    assert found.ce_loss_score == pytest.approx(1, abs=1e-5)
    assert found.kl_div_spliced == pytest.approx(0, abs=1e-5)
    assert found.l0 == D_IN


def test_too_little_text(whole, sae):
    lonely = [TEXTS[0], Context((1, 7), (False, True), 1)]
    found = fidelity(sae, whole, LAYER, lonely)
    assert (found.status, found.to_dict().keys()) == ("no_text", {"status", "why"})
    assert "Fewer than two held-out documents" in found.why


def test_intervals_are_those_of_a_bootstrap():
    """Of a mean, against its normal approximation; and the same at every call."""
    x = torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 3
    sums = torch.stack([x, torch.ones_like(x)], dim=1)
    figures, intervals = figures_and_intervals(sums, lambda s: {"mean": s[..., 0] / s[..., 1]})
    assert figures["mean"] == pytest.approx(float(x.mean()))
    half = 1.96 * float(x.std()) / 20
    assert intervals["mean"] == pytest.approx((figures["mean"] - half, figures["mean"] + half), abs=0.02)
    assert figures_and_intervals(sums, lambda s: {"mean": s[..., 0] / s[..., 1]})[1] == intervals


def test_text_is_that_held_out_from_training(tmp_path):
    for n in range(60):
        (tmp_path / f"{n}.txt").write_text(f"Scientists found water number {n} below the ice of a distant moon.")
    corpus = (FileCorpus(paths=(str(tmp_path / "*.txt"),)),)
    harvest = HarvestSettings(context_length=8, heldout_fraction=0.3, seed=3)
    tokenizer = tiny.make_tokenizer()
    heldout = [d for d in read_corpora(corpus, 3) if is_heldout(d, 0.3, 3)]
    found = heldout_contexts(corpus, harvest, tokenizer, 5)
    assert [tokenizer.decode(c.token_ids[1:]) for c in found] == [
        tokenizer.decode(tokenizer(d.text)["input_ids"][:7]) for d in heldout[:5]
    ]
    assert len(heldout_contexts(corpus, harvest, tokenizer, 1000)) == len(heldout)
