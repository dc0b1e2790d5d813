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
