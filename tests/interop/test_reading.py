"""What `sleave.load` takes a path for."""

import pytest
import torch
from agreement import D_IN, D_SAE, randomise

import sleave


def test_what_is_not_there_and_what_holds_nothing(tmp_path):
    with pytest.raises(sleave.SleaveError, match=r"nowhere` does not exist. Give a run directory .*params.npz"):
        sleave.load(tmp_path / "nowhere")
    (tmp_path / "note.txt").write_text("x")
    for path in (tmp_path, tmp_path / "note.txt"):
        with pytest.raises(sleave.SleaveError, match=r"holds no autoencoder. Give a run directory"):
            sleave.load(path)


def test_settings_without_weights(tmp_path):
    (tmp_path / "cfg.json").write_text("{}")
    with pytest.raises(sleave.SleaveError, match=r"sae_weights.safetensors` does not exist"):
        sleave.load(tmp_path)


def test_weights_without_settings(tmp_path):
    sleave.save(sleave.ReLUAutoencoder(D_IN, D_SAE), tmp_path)
    (tmp_path / "cfg.json").unlink()
    with pytest.raises(sleave.SleaveError, match=r"cfg.json` does not exist"):
        sleave.load(tmp_path)


def test_from_live_copies_our_own():
    sae = randomise(sleave.JumpReLUAutoencoder(D_IN, D_SAE)).requires_grad_(True).train()
    copy = sleave.from_live(sae)
    assert not copy.training
    assert not copy.W_enc.requires_grad
    assert torch.equal(copy.W_enc, sae.W_enc)
    assert copy.W_enc.stride() == sae.W_enc.stride()
    with torch.no_grad():
        sae.W_enc.zero_()
    assert bool(copy.W_enc.any())


def test_from_live_of_our_own_batch_topk_has_a_threshold():
    sae = randomise(sleave.BatchTopKAutoencoder(D_IN, D_SAE, k=3)).train()
    x = torch.randn(2000, D_IN)
    with pytest.raises(sleave.SleaveError, match="threshold of This BatchTopKAutoencoder was never set"):
        sleave.from_live(sae)
    found = sleave.from_live(sae, sample=x)
    assert float((found.encode(x) > 0).sum(1).float().mean()) == pytest.approx(3, rel=0.02)
    sae.threshold.fill_(0.7)
    copy = sleave.from_live(sae)
    assert isinstance(copy, sleave.JumpReLUAutoencoder)
    same = (copy.encode(x) > 0) == (sae.eval().encode(x) > 0)
    assert float(same.float().mean()) > 0.9999  # but for ties to rounding
    agree = same.all(dim=1)
    torch.testing.assert_close(copy(x)[agree], sae(x).detach()[agree], rtol=1e-4, atol=1e-4)


def test_a_folder_never_holds_the_weights_of_one_and_the_settings_of_another(tmp_path, monkeypatch):
    sleave.save(randomise(sleave.ReLUAutoencoder(D_IN, D_SAE)), tmp_path)
    before = (tmp_path / "sae_weights.safetensors").read_bytes()
    for metadata in ({"a": object()}, {"a": float("nan")}):
        with pytest.raises(sleave.SleaveError, match="`metadata` must hold what JSON can"):
            sleave.save(randomise(sleave.TopKAutoencoder(D_IN, D_SAE, k=2)), tmp_path, metadata)
    assert (tmp_path / "sae_weights.safetensors").read_bytes() == before
    with pytest.raises(sleave.SleaveError, match="holds an autoencoder in the format `sae_lens`"):
        sleave.save(sleave.load(tmp_path), tmp_path, format="dictionary_learning")

    def killed(path, value):
        raise KeyboardInterrupt

    monkeypatch.setattr("sleave.interop.sae_lens.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        sleave.save(randomise(sleave.TopKAutoencoder(D_IN, D_SAE, k=2)), tmp_path)
    with pytest.raises(sleave.SleaveError, match=r"cfg.json` does not exist"):
        sleave.load(tmp_path)
