"""Gemma Scope's params.npz, read as SAELens's own loader of it does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agreement import D_IN, D_SAE, assert_same, residual_stream
from peers import sae_lens

import sleave

RAW = residual_stream()


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    W_enc, W_dec = rng.normal(size=(D_IN, D_SAE)), rng.normal(size=(D_SAE, D_IN))
    b_dec = RAW.mean(dim=0).numpy()
    b_enc = rng.normal(size=D_SAE) - b_dec @ W_enc
    arrays = {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec, "threshold": rng.uniform(0, 3, D_SAE)}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def test_the_same_function_as_in_sae_lens(params, tmp_path, monkeypatch):
    folder = tmp_path / "layer_1" / "width_16k" / "average_l0_5"
    folder.mkdir(parents=True)
    np.savez(folder / "params.npz", **params)
    loaders = sae_lens.loading.pretrained_sae_loaders
    monkeypatch.setattr(loaders, "hf_hub_download", lambda **_: str(folder / "params.npz"))
    name = str(folder.relative_to(tmp_path))
    config, state, _ = loaders.gemma_2_sae_huggingface_loader("google/gemma-scope-2b-pt-res", name)
    theirs = sae_lens.JumpReLUSAE(
        sae_lens.JumpReLUSAEConfig(D_IN, D_SAE, apply_b_dec_to_input=config["apply_b_dec_to_input"])
    )
    theirs.load_state_dict(state)
    theirs.requires_grad_(False)
    for path in (folder, folder / "params.npz"):
        ours = sleave.load(path)
        assert_same(ours, theirs.encode(RAW), theirs(RAW), RAW, tolerance=2e-4)
        assert torch.equal(ours.threshold, torch.from_numpy(params["threshold"]))


def test_half_precision(params, tmp_path):
    np.savez_compressed(tmp_path / "params.npz", **{n: a.astype(np.float16) for n, a in params.items()})
    assert sleave.load(tmp_path).W_dec.dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b_dec": np.zeros(3)}, r"b_dec has shape \(3,\); it should be \(12,\)"),
        ({"W_enc": np.zeros(3)}, "W_enc has shape .3,.; it must be a matrix"),
        ({"threshold": np.full(D_SAE, np.inf)}, "threshold holds NaN or infinite"),
        ({"affine_skip_connection": np.zeros((D_IN, D_IN))}, "It also has affine_skip_connection"),
        ({"threshold": np.array([{}])}, "cannot be read .*pickle"),
        ({"threshold": np.array(["a"])}, "cannot be read .*not an .npz file of numbers"),
    ],
)
def test_what_is_not_what_it_says(change, message, params, tmp_path):
    np.savez(tmp_path / "params.npz", **params | change)
    with pytest.raises(sleave.SleaveError, match=message):
        sleave.load(tmp_path)


def test_damaged_files(params, tmp_path):
    file = tmp_path / "params.npz"
    np.savez(file, **{n: a for n, a in params.items() if n != "W_enc"})
    with pytest.raises(sleave.SleaveError, match="has no W_enc; it holds W_dec, b_dec, b_enc, threshold"):
        sleave.load(file)
    np.savez(file, **params)
    whole = file.read_bytes()
    with (tmp_path / "array.npy").open("wb") as other:
        np.save(other, params["W_enc"])
    for content in (b"", b"text", whole[: len(whole) // 2], (tmp_path / "array.npy").read_bytes()):
        file.write_bytes(content)
        with pytest.raises(sleave.SleaveError, match=r"cannot be read .*truncated or altered"):
            sleave.load(file)
