"""Every architecture: its codes by formula, what it adds to the loss, and what folding and saving make of it."""

import pytest
import torch
from peers import sae_lens
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sleave.autoencoder.batch_topk import BatchTopKAutoencoder
from sleave.autoencoder.folding import fold
from sleave.autoencoder.gated import GatedAutoencoder
from sleave.autoencoder.jumprelu import JumpReLUAutoencoder
from sleave.autoencoder.matryoshka import MatryoshkaAutoencoder
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.autoencoder.topk import TopKAutoencoder
from sleave.base.errors import SleaveError
from sleave.codes import largest
from sleave.codes.codes import Codes
from sleave.interop.writing import save
from sleave.penalties.guided import MIOrtho
from sleave.penalties.orthogonality import SelectiveOrthogonality
from sleave.training.settings import OptimizerSettings, TrainingSettings
from sleave.training.step import Stepper

D_IN, D_SAE = 12, 30
KINDS = {
    "relu": (ReLUAutoencoder, {}),
    "jumprelu": (JumpReLUAutoencoder, {"threshold": 0.5}),
    "gated": (GatedAutoencoder, {}),
    "topk": (TopKAutoencoder, {"k": 4}),
    "batch_topk": (BatchTopKAutoencoder, {"k": 4}),
    "matryoshka": (MatryoshkaAutoencoder, {"k": 4, "widths": (5, 12, D_SAE)}),
}


def build(kind, seed=0, **more):
    g = torch.Generator().manual_seed(seed)
    cls, arguments = KINDS[kind]
    sae = cls(D_IN, D_SAE, **arguments, **more)
    with torch.no_grad():
        for name, p in sae.named_parameters():
            p.copy_(torch.randn(p.shape, generator=g) * (0.3 if name in ("r_mag", "threshold") else 1))
        if kind == "jumprelu":
            sae.threshold.abs_()
    if hasattr(sae, "threshold") and kind != "jumprelu":
        sae.threshold.fill_(1.3)
    return sae


def rows(n=300, seed=1):
    return torch.randn(n, D_IN, generator=torch.Generator().manual_seed(seed))


def by_formula(sae, x):
    """Codes in training mode, from what each paper says, densely."""
    pre = x @ sae.W_enc + sae.b_enc
    match sae:
        case MatryoshkaAutoencoder() | BatchTopKAutoencoder():
            cut = pre.flatten().topk(sae.k * len(x)).values[-1]
            return torch.where((pre >= cut) & (pre > 0), pre, 0)
        case TopKAutoencoder():
            return torch.where((pre >= pre.topk(sae.k, dim=1).values[:, -1:]) & (pre > 0), pre, 0)
        case JumpReLUAutoencoder():
            return torch.where(pre > sae.threshold, pre, 0)
        case GatedAutoencoder():
            return torch.relu((x @ sae.W_enc) * sae.r_mag.exp() + sae.b_mag) * (pre > 0)
    return torch.relu(pre)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_those_of_the_formula(kind):
    sae, x = build(kind).train(), rows()
    acts = sae.codes(x)
    assert isinstance(acts, Codes) == (kind in ("topk", "batch_topk", "matryoshka"))
    torch.testing.assert_close(sae.encode(x), by_formula(sae, x))
    torch.testing.assert_close(sae.decode(acts), sae.decode(sae.encode(x)))
    torch.testing.assert_close(sae(x), by_formula(sae, x) @ sae.W_dec + sae.b_dec)
    assert sae.encode(x.view(3, 100, D_IN)).shape == (3, 100, D_SAE)
    assert sae(x.view(3, 100, D_IN)).shape == (3, 100, D_IN)


@pytest.mark.parametrize("kind", ["relu", "gated", "topk", "batch_topk", "matryoshka"])
def test_the_gradient_is_that_of_the_formula(kind):
    """Also where codes are held as what fires; thresholds of JumpReLU have a test of their own."""
    ours, theirs, x = build(kind), build(kind), rows()
    done = ours.training_pass(x)
    acts = done.acts.to_dense() if isinstance(done.acts, Codes) else done.acts
    ((done.x_hat - x).square().sum(1).mean() + 0.3 * acts.sum(1).mean()).backward()
    acts = by_formula(theirs, x)
    (((acts @ theirs.W_dec + theirs.b_dec) - x).square().sum(1).mean() + 0.3 * acts.sum(1).mean()).backward()
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if b.grad is None:
            assert (kind, name, a.grad) == ("gated", "b_enc", None)  # a step has no gradient
            continue
        assert a.grad.stride() == a.stride()  # else the optimizer would copy
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_jumprelu_learns_its_threshold_as_sae_lens_has_it():
    sae, x = build("jumprelu"), rows(2000)
    done = sae.training_pass(x)
    (done.x_hat.square().sum(1).mean() + 0.7 * done.sparsity).backward()
    W_enc, b_enc, W_dec, b_dec, threshold = (p.detach().clone().requires_grad_() for p in sae.parameters())
    z = x @ W_enc + b_enc
    acts = sae_lens.saes.jumprelu_sae.JumpReLU.apply(z, threshold, sae.bandwidth, False)
    l0 = sae_lens.saes.jumprelu_sae.Step.apply(z, threshold, sae.bandwidth, False).sum(1).mean()
    ((acts @ W_dec + b_dec).square().sum(1).mean() + 0.7 * l0).backward()
    torch.testing.assert_close(done.sparsity, l0)
    assert threshold.grad.abs().min() > 0
    for (name, a), b in zip(sae.named_parameters(), (W_enc, b_enc, W_dec, b_dec, threshold), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_a_threshold_does_not_fall_below_zero():
    sae = JumpReLUAutoencoder(D_IN, D_SAE, threshold=0.001)
    for p in (sae.W_enc, sae.W_dec):
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(0))
    stepper = Stepper(sae, OptimizerSettings(), TrainingSettings(precision="float32"), None)
    reached = False
    for step in range(5):
        stepper.step(rows(seed=step), lr=0.01, sparsity_weight=0.0)
        assert sae.threshold.detach().min() >= 0
        reached |= bool((sae.threshold == 0).any())
    assert reached


def test_gated_loss_as_sae_lens_has_it_but_for_the_frozen_decoder():
    sae, x = build("gated"), rows()
    done = sae.training_pass(x)
    cfg = sae_lens.GatedTrainingSAEConfig(D_IN, D_SAE, apply_b_dec_to_input=False, decoder_init_norm=None)
    other = sae_lens.GatedTrainingSAE(cfg)
    with torch.no_grad():
        sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))  # theirs weighs by the norm, which ours keeps at 1
        done = sae.training_pass(x)
        names = {
            "W_enc": "W_enc",
            "b_gate": "b_enc",
            "W_dec": "W_dec",
            "b_dec": "b_dec",
            "r_mag": "r_mag",
            "b_mag": "b_mag",
        }
        for theirs, ours in names.items():
            getattr(other, theirs).copy_(getattr(sae, ours))
    given = sae_lens.saes.sae.TrainStepInput(x, {"l1": 1.0}, None, 0, False)
    losses = other.training_forward_pass(given).losses
    assert done.sparsity.item() == pytest.approx(losses["l1_loss"].item(), rel=1e-5)
    assert done.auxiliary.item() == pytest.approx(losses["auxiliary_reconstruction_loss"].item(), rel=1e-5)
    sae.zero_grad()
    sae.training_pass(x).auxiliary.backward()
    assert sae.W_dec.grad is None
    assert sae.b_dec.grad is None
    assert sae.W_enc.grad.abs().max() > 0


def test_matryoshka_adds_the_errors_of_its_inner_dictionaries():
    sae, x = build("matryoshka"), rows()
    acts = by_formula(sae, x)
    wanted = sum((acts[:, :w] @ sae.W_dec[:w] + sae.b_dec - x).square().sum(1).mean() for w in (5, 12))
    ours = sae.training_pass(x).auxiliary
    torch.testing.assert_close(ours, wanted)
    grads = [torch.autograd.grad(loss, list(sae.parameters())) for loss in (ours, wanted)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dead", [3, 20])
def test_aux_k_by_formula(dead):
    sae, x = build("topk"), rows()
    mask = torch.arange(D_SAE) < dead
    done = sae.training_pass(x, mask)
    assert sae.training_pass(x, mask & False).auxiliary is None
    most = min(D_IN // 2, dead)
    pre = (x @ sae.W_enc + sae.b_enc)[:, :dead]
    strongest = pre.relu() * (pre >= pre.topk(most, dim=1).values[:, -1:])
    error = strongest @ sae.W_dec[:dead] - (x - done.x_hat).detach()
    wanted = sae.aux_weight * min(1, dead / (D_IN // 2)) * error.square().sum(1).mean()
    torch.testing.assert_close(done.auxiliary, wanted)
    names = ("W_enc", "b_enc", "W_dec")
    grads = [torch.autograd.grad(loss, [getattr(sae, n) for n in names]) for loss in (done.auxiliary, wanted)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["batch_topk", "matryoshka"])
def test_the_threshold_runs_after_the_smallest_code(kind):
    sae = build(kind).train()
    sae.threshold.fill_(-1)
    with pytest.raises(SleaveError, match=r"threshold of this BatchTopK autoencoder was never set.*sample=x"):
        sae.eval().encode(rows())
    sae.train()
    x = rows()
    with torch.no_grad():
        least = sae.training_pass(x).least
    acts = sae.encode(x).detach()
    assert float(least) == pytest.approx(float(acts[acts > 0].min()))
    sae.track(x, least)
    assert float(sae.threshold) == pytest.approx(float(least))
    sae.track(x, least + 1)
    assert float(sae.threshold) == pytest.approx(float(least) + 0.1)
    pre = x @ sae.W_enc + sae.b_enc
    torch.testing.assert_close(sae.eval().encode(x), torch.where(pre > sae.threshold, pre, 0))


def raw_rows(n=500):
    g = torch.Generator().manual_seed(1)
    return 300 * torch.randn(D_IN, generator=g) + torch.randn(n, D_IN, generator=g) * torch.logspace(-1, 1, D_IN)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_folded_and_saved_it_is_the_same_in_sae_lens(kind, batch_norm, tmp_path):
    sae, raw = build(kind, batch_norm=batch_norm).requires_grad_(False), raw_rows()
    shift, scale = raw.mean(0), 1 / raw.std(0)
    scaled = ((raw.double() - shift) * scale).float()
    if batch_norm:
        sae.batch_norm.track(scaled + 0.1, momentum=0.7)
    sae.eval()
    folded = fold(sae, shift, scale)
    codes, reconstruction = sae.encode(scaled), sae(scaled) / scale + shift
    norm = (sae.W_dec / scale).norm(dim=1) if kind != "topk" else torch.ones(D_SAE)
    ours = folded.encode(raw)
    assert float(((codes > 0) == (ours > 0)).float().mean()) > 0.999
    torch.testing.assert_close(ours, codes * norm, rtol=2e-3, atol=2e-3 * float((codes * norm).max()))
    assert float((folded(raw) - reconstruction).norm() / (raw - shift).norm()) < 2e-3
    if kind != "topk":
        torch.testing.assert_close(folded.W_dec.norm(dim=1), torch.ones(D_SAE))
    save(folded, tmp_path / "sae")
    theirs = sae_lens.SAE.load_from_disk(tmp_path / "sae")
    assert theirs.cfg.architecture() == {"relu": "standard", "batch_topk": "jumprelu", "matryoshka": "jumprelu"}.get(
        kind, kind
    )
    torch.testing.assert_close(theirs.encode(raw), ours, rtol=1e-5, atol=1e-5 * float(ours.max()))
    torch.testing.assert_close(theirs(raw), folded(raw), rtol=1e-5, atol=1e-4)


def test_what_has_no_threshold_yet_is_not_saved(tmp_path):
    with pytest.raises(SleaveError, match=r"batch_topk autoencoder cannot be saved as it is: save sleave\.fold"):
        save(build("batch_topk"), tmp_path / "sae")
    sae = build("matryoshka")
    sae.threshold.fill_(-1)
    with pytest.raises(SleaveError, match="was never set"):
        fold(sae, torch.zeros(D_IN), torch.ones(D_IN))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopKAutoencoder(4, 8, k=9), r"`k` \(= 9\) must be a whole number above 0 and at most d_sae \(= 8\)"),
        (lambda: TopKAutoencoder(4, 8, k=0.5), r"`k` \(= 0.5\) must be a whole number"),
        (lambda: BatchTopKAutoencoder(4, 8, k=0), r"`k` \(= 0\) must be above 0"),
        (lambda: TopKAutoencoder(4, 8, k=2, aux_weight=-1), r"`aux_weight` \(= -1\) must be at least 0"),
        (lambda: MatryoshkaAutoencoder(4, 8, k=2, widths=(4, 4, 8)), r"`widths` \(= \[4, 4, 8\]\) must ascend"),
        (lambda: MatryoshkaAutoencoder(4, 8, k=2, widths=(4, 7)), r"to d_sae \(= 8\)"),
        (lambda: JumpReLUAutoencoder(4, 8, bandwidth=0), r"`bandwidth` \(= 0\) above 0"),
    ],
)
def test_arguments_that_cannot_be(make, message):
    with pytest.raises(SleaveError, match=message):
        make()


class _Sizes(TorchDispatchMode):
    """Remembers the most numbers that any result had."""

    most = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.most = max(self.most, tensor.numel())
        return result


@pytest.mark.parametrize("penalty", [None, SelectiveOrthogonality(top=0.01), MIOrtho(top=0.001)])
@pytest.mark.parametrize("kind", ["topk", "batch_topk", "matryoshka"])
def test_nothing_of_batch_times_d_sae_is_made(kind, penalty, monkeypatch):
    """Neither forwards nor backwards, with a constraint or without."""
    batch, d_sae = 512, 600
    monkeypatch.setattr(largest, "NUMBERS", d_sae * 8)
    monkeypatch.setattr(largest, "ROWS", 1)
    cls, arguments = KINDS[kind]
    sae = cls(D_IN, d_sae, **(arguments | ({"widths": (50, 100, d_sae)} if kind == "matryoshka" else {})))
    for p in sae.parameters():
        torch.nn.init.normal_(p)
    stepper = Stepper(sae, OptimizerSettings(), TrainingSettings(precision="float32"), penalty)
    with _Sizes() as sizes:
        result = stepper.step(rows(batch), lr=1e-3, sparsity_weight=0, dead=torch.arange(d_sae) < 20)
    assert result.auxiliary > 0
    assert sizes.most < batch * d_sae / 8


def test_dropout_is_the_same_for_all_nested_dictionaries():
    """With nearly all codes dropped, the inner errors are those of next to nothing, too."""
    cls, arguments = KINDS["matryoshka"]
    sae = cls(D_IN, D_SAE, **arguments, dropout=0.99)
    sae.load_state_dict(build("matryoshka").state_dict())
    torch.manual_seed(0)
    with torch.no_grad():
        first, second = (sae.training_pass(rows()).auxiliary for _ in range(2))
    assert float(first) != float(second)


@pytest.mark.parametrize("kind", ["topk", "batch_topk"])
def test_rows_that_are_not_finite_are_refused_where_they_would_vanish(kind):
    x = rows()
    x[3, 2] = float("nan")
    with pytest.raises(SleaveError, match="activations hold NaN or infinite values"):
        build(kind).train().encode(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_topk_in_other_precisions(dtype):
    sae, x = build("topk"), rows()
    ours = sae.to(dtype).encode(x.to(dtype))
    expected = build("topk").encode(x)
    assert ((expected > 0) == (ours > 0)).float().mean() > 0.98
    both = (ours > 0) & (expected > 0)
    torch.testing.assert_close(ours[both].float(), expected[both], rtol=0.1, atol=0.1)
