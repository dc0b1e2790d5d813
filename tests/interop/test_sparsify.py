"""sparsify's files and objects."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from agreement import D_IN, D_SAE, K, assert_same, randomise, residual_stream
from peers import sparse_coder, sparsify_config
from safetensors.torch import load_file, save_file

import sleave

RAW = residual_stream()


def coder(dtype=None, **settings):
    config = sparsify_config.SparseCoderConfig(**({"num_latents": D_SAE, "k": K} | settings))
    theirs = randomise(sparse_coder.SparseCoder(D_IN, config))
    return theirs.to(dtype) if dtype else theirs


def dense(theirs, x):
    top = theirs.encode(x)
    return torch.zeros(len(x), theirs.num_latents).scatter(1, top.top_indices, top.top_acts)


@pytest.mark.parametrize("settings", [{}, {"num_latents": 0, "expansion_factor": 3}, {"k": 30}])
def test_what_sparsify_saves_is_the_same_function_here(settings, tmp_path):
    coder(**settings).save_to_disk(tmp_path)
    theirs = sparse_coder.SparseCoder.load_from_disk(tmp_path).requires_grad_(False)
    codes, x_hat = dense(theirs, RAW), theirs(RAW).sae_out
    for ours in (sleave.load(tmp_path), sleave.load(tmp_path / "sae.safetensors"), sleave.from_live(theirs)):
        assert_same(ours, codes, x_hat, RAW)


def test_half_precision_is_read_to_float32(tmp_path):
    theirs = coder(torch.bfloat16)
    theirs.save_to_disk(tmp_path)
    theirs.float()
    assert_same(sleave.load(tmp_path), dense(theirs, RAW), theirs(RAW).sae_out, RAW)


def edit(folder, **changes):
    config = json.loads((folder / "cfg.json").read_text()) | changes
    (folder / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


def test_a_missing_k_is_sparsifys_own_and_is_said(tmp_path, capsys):
    coder().save_to_disk(tmp_path)
    edit(tmp_path, k="absent", activation="absent")
    theirs, ours = sparse_coder.SparseCoder.load_from_disk(tmp_path).requires_grad_(False), sleave.load(tmp_path)
    assert_same(ours, dense(theirs, RAW), theirs(RAW).sae_out, RAW)
    assert "does not say how many features fire (k). sparsify takes 32" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "groupmax"}, "activation = 'groupmax'; sleave reads 'topk'"),
        ({"transcode": True}, "transcode = true: a transcoder"),
        ({"skip_connection": True}, "skip_connection = true: its reconstruction has a linear part"),
        ({"signed": True}, "signed = true: features fire with either sign"),
        ({"d_in": 13}, "does not fit its cfg.json: d_in is 12, not 13"),
        ({"num_latents": 41}, "num_latents is 40, not 41"),
        ({"k": 0}, "k = 0; it must be a number above 0"),
    ],
)
def test_others_are_refused(change, message, tmp_path):
    coder().save_to_disk(tmp_path)
    edit(tmp_path, **change)
    with pytest.raises(sleave.SleaveError, match=message):
        sleave.load(tmp_path)


def test_live_ones_are_refused_alike():
    with pytest.raises(sleave.SleaveError, match="This SparseCoder has transcode = true"):
        sleave.from_live(coder(transcode=True))


def test_without_a_decoder_there_is_nothing_to_read(tmp_path):
    coder().save_to_disk(tmp_path)
    tensors = load_file(tmp_path / "sae.safetensors")
    del tensors["W_dec"]
    save_file(tensors, tmp_path / "sae.safetensors")
    with pytest.raises(sleave.SleaveError, match="It lacks W_dec"):
        sleave.load(tmp_path)


@pytest.mark.parametrize("obj", [3, torch.nn.Linear(2, 2), SimpleNamespace(cfg={}), "a/path"])
def test_other_objects_are_refused(obj):
    with pytest.raises(sleave.SleaveError, match=r"Give an autoencoder of SAELens .*sparsify .SparseCoder. or sleave"):
        sleave.from_live(obj)
