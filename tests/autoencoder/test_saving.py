import json

import pytest
import torch

from sleave.autoencoder.folding import fold
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.base.errors import SleaveError
from sleave.interop.reading import load
from sleave.interop.writing import save


@pytest.fixture
def sae():
    g = torch.Generator().manual_seed(0)
    sae = ReLUAutoencoder(12, 30)
    for p in sae.parameters():
        p.data = torch.randn(p.shape, generator=g)
    return sae.requires_grad_(False)


@pytest.fixture
def normed(sae):
    """The same with batch norm that has seen rows, and dropout, in eval mode."""
    g = torch.Generator().manual_seed(2)
    normed = ReLUAutoencoder(12, 30, batch_norm=True, dropout=0.5).requires_grad_(False)
    normed.load_state_dict(sae.state_dict(), strict=False)
    normed.batch_norm.gamma.copy_(1 + 0.3 * torch.randn(12, generator=g))
    normed.batch_norm.beta.copy_(torch.randn(12, generator=g))
    normed.batch_norm.track(0.3 + torch.randn(100, 12, generator=g) * torch.linspace(0.5, 2, 12), momentum=0.9)
    return normed.eval()


@pytest.fixture
def raw():
    """Rows as a residual stream has them: means of thousands of deviations."""
    g = torch.Generator().manual_seed(1)
    mean = 3000 * torch.randn(12, generator=g)
    return mean + torch.randn(500, 12, generator=g) * torch.logspace(-1, 1, 12)


@pytest.mark.parametrize("apply_b_dec_to_input", [False, True])
def test_folding_keeps_codes_and_reconstructions(sae, raw, apply_b_dec_to_input):
    sae.apply_b_dec_to_input = apply_b_dec_to_input
    shift, scale = raw.mean(0), 1 / raw.std(0)
    folded = fold(sae, shift, scale)
    scaled = ((raw.double() - shift) * scale).float()
    codes, reconstruction = sae.encode(scaled), sae(scaled) / scale + shift
    norm = (sae.W_dec / scale).norm(dim=1)
    torch.testing.assert_close(folded.encode(raw), codes * norm, rtol=1e-3, atol=1e-3 * float((codes * norm).max()))
    assert float((folded(raw) - reconstruction).norm() / (raw - shift).norm()) < 1e-3
    torch.testing.assert_close(folded.W_dec.norm(dim=1), torch.ones(30))
    # in float64 the two are the same function, to rounding of the stored float32
    fires = (codes > 0) == (folded.encode(raw) > 0)
    assert float(fires.float().mean()) > 0.999


@pytest.mark.parametrize("apply_b_dec_to_input", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_batch_norm_is_folded_in(normed, scaled, apply_b_dec_to_input, tmp_path):
    normed.apply_b_dec_to_input = apply_b_dec_to_input
    g = torch.Generator().manual_seed(3)
    x = torch.randn(500, 12, generator=g)
    shift, scale = (
        (torch.randn(12, generator=g), torch.rand(12, generator=g) + 0.5)
        if scaled
        else (torch.zeros(12), torch.ones(12))
    )
    raw = x / scale + shift
    save(fold(normed, shift, scale), tmp_path)
    read = load(tmp_path)
    assert list(read.state_dict()) == ["W_enc", "b_enc", "W_dec", "b_dec"]
    norm = (normed.W_dec / scale).norm(dim=1)
    torch.testing.assert_close(read.encode(raw), normed.encode(x) * norm, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(read(raw), normed(x) / scale + shift, rtol=1e-4, atol=1e-4)
    read.train()  # nothing is left that the mode could switch on
    assert torch.equal(read(raw), read.eval()(raw))
    assert torch.equal(fold(normed.train(), shift, scale).W_enc, read.W_enc)


def test_round_trip(sae, tmp_path):
    save(sae, tmp_path / "sae", {"model_name": "x"})
    read = load(tmp_path)  # a run directory
    assert all(torch.equal(a, b) for a, b in zip(sae.parameters(), read.parameters(), strict=True))
    assert json.loads((tmp_path / "sae/cfg.json").read_text())["metadata"]["model_name"] == "x"


def test_sae_lens_opens_what_we_save(sae, raw, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    folded = fold(sae, raw.mean(0), 1 / raw.std(0))
    save(folded, tmp_path, {"model_name": "m", "hook_name": "blocks.1.hook_resid_post"})
    theirs, ours = sae_lens.SAE.load_from_disk(tmp_path).requires_grad_(False), load(tmp_path)
    codes = theirs.encode(raw)
    assert float((ours.encode(raw) - codes).norm() / codes.norm()) < 1e-6
    assert float((ours(raw) - theirs(raw)).norm() / raw.norm()) < 1e-6
    assert theirs.cfg.metadata.hook_name == "blocks.1.hook_resid_post"


def test_sae_lens_opens_what_had_batch_norm(normed, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    g = torch.Generator().manual_seed(3)
    x, shift, scale = torch.randn(500, 12, generator=g), torch.randn(12, generator=g), torch.linspace(0.5, 2, 12)
    raw = x / scale + shift
    save(fold(normed, shift, scale), tmp_path)
    theirs = sae_lens.SAE.load_from_disk(tmp_path).requires_grad_(False)
    norm = (normed.W_dec / scale).norm(dim=1)
    torch.testing.assert_close(theirs.encode(raw), normed.encode(x) * norm, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(theirs(raw), normed(x) / scale + shift, rtol=1e-4, atol=1e-4)


def test_we_open_what_sae_lens_saves(raw, tmp_path):
    sae_lens = pytest.importorskip("sae_lens")
    theirs = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(d_in=12, d_sae=30))
    for p in theirs.parameters():
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(3))
    theirs.save_model(tmp_path)
    ours = load(tmp_path)
    assert ours.apply_b_dec_to_input
    torch.testing.assert_close(ours(raw), theirs(raw))


def test_errors_say_what_is_wrong(sae, tmp_path):
    with pytest.raises(SleaveError, match="holds no autoencoder"):
        load(tmp_path)
    save(sae, tmp_path)
    weights = tmp_path / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SleaveError, match="truncated or altered"):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(SleaveError, match="does not exist"):
        load(tmp_path)
    weights.write_bytes(whole)
    config = json.loads((tmp_path / "cfg.json").read_text())
    for change, message in (
        ({"d_sae": 31}, r"does not fit its cfg.json \(d_in = 12, d_sae = 31\)"),
        ({"architecture": "temporal"}, "architecture = 'temporal'; sleave reads 'standard'"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations = 'layer_norm'"),
    ):
        (tmp_path / "cfg.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(SleaveError, match=message):
            load(tmp_path)
    (tmp_path / "cfg.json").write_text("{")
    with pytest.raises(SleaveError, match="not valid JSON"):
        load(tmp_path)


def test_nan_weights_are_refused(sae, tmp_path):
    sae.b_enc.data[0] = float("nan")
    save(sae, tmp_path)
    with pytest.raises(SleaveError, match="b_enc holds NaN"):
        load(tmp_path)


def test_wrong_width_is_named(sae):
    with pytest.raises(SleaveError, match="width 5, but this autoencoder reads width 12"):
        sae.encode(torch.zeros(2, 5))
    with pytest.raises(SleaveError, match="d_sae = 30"):
        sae.decode(torch.zeros(2, 5))
