"""SAELens's files and objects, old and new, read as SAELens itself reads them."""

from __future__ import annotations

import json
import math

import pytest
import torch
from agreement import D_IN, D_SAE, K, assert_same, randomise, residual_stream
from peers import sae_lens
from safetensors.torch import load_file, save_file

import sleave

RAW = residual_stream()
SIZE = {"d_in": D_IN, "d_sae": D_SAE}
INFERENCE = {
    "standard": lambda **s: sae_lens.StandardSAE(sae_lens.StandardSAEConfig(**SIZE, **s)),
    "gated": lambda **s: sae_lens.GatedSAE(sae_lens.GatedSAEConfig(**SIZE, **s)),
    "jumprelu": lambda **s: sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(**SIZE, **s)),
    "topk": lambda **s: sae_lens.TopKSAE(sae_lens.TopKSAEConfig(**SIZE, **({"k": K} | s))),
}


def batch_topk(**settings):
    return sae_lens.BatchTopKTrainingSAE(sae_lens.BatchTopKTrainingSAEConfig(**SIZE, **({"k": K} | settings)))


def matryoshka(**settings):
    config = sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(**SIZE, k=K, matryoshka_widths=[10, D_SAE], **settings)
    return sae_lens.MatryoshkaBatchTopKTrainingSAE(config)


def random_sae(make, scale=1.0, **settings):
    """One that suits RAW times `scale`, also if it does not centre what it reads."""
    sae = randomise(make(**settings), scale)
    if hasattr(sae, "threshold"):
        sae.threshold.data = torch.rand(D_SAE, generator=torch.Generator().manual_seed(3))
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(1.3)
    if not sae.cfg.apply_b_dec_to_input:
        for bias, factor in (
            ("b_enc", 1.0),
            ("b_gate", 1.0),
            ("b_mag", sae.r_mag.exp() if hasattr(sae, "r_mag") else 1),
        ):
            if getattr(sae, bias, None) is not None:
                getattr(sae, bias).sub_(sae.b_dec @ sae.W_enc * factor)
    return sae


def edit(folder, **changes):
    config = json.loads((folder / "cfg.json").read_text())
    config |= changes
    (folder / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


def saved(sae, folder, **changes):
    sae.save_model(folder)
    edit(folder, **changes)
    return folder


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("architecture", INFERENCE)
def test_what_sae_lens_saves_is_the_same_function_here(architecture, centred, tmp_path):
    theirs = random_sae(INFERENCE[architecture], apply_b_dec_to_input=centred)
    theirs.save_model(tmp_path)
    opened = sae_lens.SAE.load_from_disk(tmp_path)
    for ours in (sleave.load(tmp_path), sleave.load(tmp_path / "sae_weights.safetensors"), sleave.from_live(theirs)):
        assert_same(ours, opened.encode(RAW), opened(RAW), RAW, tolerance=2e-5 if centred else 2e-4)
        assert ours.apply_b_dec_to_input is centred


def test_what_is_absent_is_what_sae_lens_takes(tmp_path):
    saved(random_sae(INFERENCE["standard"]), tmp_path, apply_b_dec_to_input="absent", normalize_activations="absent")
    opened = sae_lens.SAE.load_from_disk(tmp_path)
    assert_same(sleave.load(tmp_path), opened.encode(RAW), opened(RAW), RAW)


def test_a_missing_k_is_sae_lens_own_and_is_said(tmp_path, capsys):
    saved(random_sae(INFERENCE["topk"]), tmp_path, k="absent", d_sae=200)
    file = tmp_path / "sae_weights.safetensors"
    wide = {
        n: t if n == "b_dec" else t.repeat(5 if n != "W_enc" else 1, *([5] if n == "W_enc" else [1] * (t.ndim - 1)))
        for n, t in load_file(file).items()
    }
    g = torch.Generator().manual_seed(0)
    save_file({n: (t + 0.1 * torch.randn(t.shape, generator=g)).contiguous() for n, t in wide.items()}, file)
    opened, ours = sae_lens.SAE.load_from_disk(tmp_path), sleave.load(tmp_path)
    assert (opened.cfg.k, ours.k) == (100, 100)
    assert torch.equal(ours.encode(RAW) > 0, opened.encode(RAW) > 0)
    assert "does not say how many features fire (k). SAELens takes 100" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("centred", [True, False])
def test_topk_of_codes_that_the_decoders_norm_has_scaled(centred, tmp_path):
    theirs = random_sae(INFERENCE["topk"], rescale_acts_by_decoder_norm=True, apply_b_dec_to_input=centred)
    theirs.save_model(tmp_path)
    codes = theirs.encode(RAW)
    assert not torch.equal(codes > 0, random_sae(INFERENCE["topk"], apply_b_dec_to_input=centred).encode(RAW) > 0)
    assert_same(sleave.load(tmp_path), codes, theirs(RAW), RAW, tolerance=2e-5 if centred else 2e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("architecture", INFERENCE)
def test_half_precision_files_are_read_to_float32(architecture, dtype, tmp_path):
    random_sae(INFERENCE[architecture]).to(dtype=getattr(torch, dtype)).save_model(tmp_path)
    opened = sae_lens.SAE.load_from_disk(tmp_path, dtype="float32")
    assert load_file(tmp_path / "sae_weights.safetensors")["W_enc"].dtype == getattr(torch, dtype)
    ours = sleave.load(tmp_path)
    assert ours.W_dec.dtype == torch.float32
    assert_same(ours, opened.encode(RAW), opened(RAW), RAW)


def test_hook_z_reads_all_heads_in_a_row(tmp_path):
    theirs = random_sae(INFERENCE["jumprelu"], reshape_activations="hook_z")
    theirs.save_model(tmp_path)
    heads = RAW.unflatten(1, (3, 4))
    assert_same(sleave.load(tmp_path), theirs.encode(heads), theirs(heads).flatten(1), RAW)


# Checkpoints of a training


@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize("make", [batch_topk, matryoshka])
def test_batch_topk_checkpoints_are_what_sae_lens_saves_in_the_end(make, rescaled, tmp_path):
    theirs = random_sae(make, rescale_acts_by_decoder_norm=rescaled)
    theirs.save_model(tmp_path / "checkpoint")
    theirs.save_inference_model(tmp_path / "final")
    final = sae_lens.SAE.load_from_disk(tmp_path / "final")
    for ours in (sleave.load(tmp_path / "checkpoint"), sleave.load(tmp_path / "final"), sleave.from_live(theirs)):
        assert isinstance(ours, sleave.JumpReLUAutoencoder)
        assert_same(ours, final.encode(RAW), final(RAW), RAW)


@pytest.mark.parametrize("how", ["scaler file", "sample"])
@pytest.mark.parametrize("make", [batch_topk, *INFERENCE.values()])
def test_scaled_activations(make, how, tmp_path):
    """What SAELens's own folding, at the end of its training, makes of it."""
    factor = math.sqrt(D_IN) / float(RAW.norm(dim=1).mean())
    theirs = random_sae(make, factor, normalize_activations="expected_average_only_in")
    if make is batch_topk:
        theirs.topk_threshold.fill_(0.05)
    theirs.save_model(tmp_path)
    with pytest.raises(sleave.SleaveError, match=r"factor was. SAELens opens such a file as if.*sample=x"):
        sleave.load(tmp_path)
    if how == "scaler file":
        (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor, "has_whitening": False}))
    ours = sleave.load(tmp_path, sample=None if how == "scaler file" else RAW)
    scaled = theirs.encode(RAW * factor) if make is not batch_topk else None
    theirs.fold_activation_norm_scaling_factor(factor)
    theirs.save_inference_model(tmp_path / "final") if make is batch_topk else theirs.save_model(tmp_path / "final")
    final = sae_lens.SAE.load_from_disk(tmp_path / "final")
    assert_same(ours, final.encode(RAW), final(RAW), RAW, tolerance=1e-4)
    if scaled is not None:
        assert torch.equal(ours.encode(RAW) > 0, scaled > 0)


@pytest.mark.parametrize("rescaled", [True, False])
def test_a_threshold_that_was_never_set_comes_from_a_sample(rescaled, tmp_path):
    theirs = random_sae(batch_topk, rescale_acts_by_decoder_norm=rescaled)
    theirs.topk_threshold.fill_(0.0)
    theirs.save_model(tmp_path)
    for read in (sleave.load, lambda path, **sample: sleave.from_live(theirs, **sample)):
        with pytest.raises(sleave.SleaveError, match=r"never set .*let every positive feature fire.* k = 5.*sample=x"):
            read(tmp_path)
        ours = read(tmp_path, sample=RAW)
        codes = theirs.encode(RAW)  # in training mode: the k strongest of a row, on average over these rows
        assert int((codes > 0).sum()) == K * len(RAW)
        assert_same(ours, codes, theirs.decode(codes), RAW)


def test_older_jumprelu_checkpoints_hold_the_logarithm_of_the_threshold(tmp_path):
    theirs = random_sae(lambda **s: sae_lens.JumpReLUTrainingSAE(sae_lens.JumpReLUTrainingSAEConfig(**SIZE, **s)))
    theirs.save_model(tmp_path)
    file = tmp_path / "sae_weights.safetensors"
    tensors = load_file(file)
    tensors["log_threshold"] = tensors.pop("threshold").log()
    save_file(tensors, file)
    opened = sae_lens.TrainingSAE.load_from_disk(tmp_path)
    assert_same(sleave.load(tmp_path), opened.encode(RAW), opened(RAW), RAW)


# Files of SAELens before 6


def old(folder, sae, **changes):
    """cfg.json as SAELens 3 to 5 wrote it: no metadata, no version."""
    sae.save_model(folder)
    config = {"architecture": "standard", "activation_fn_str": "relu", "dtype": "float32", "device": "cpu", **SIZE}
    config |= {"model_name": "m", "hook_name": "blocks.0.hook_resid_pre", "normalize_activations": "none"} | changes
    (folder / "cfg.json").write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))
    return folder


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("standard", {}),
        ("standard", {"architecture": "absent", "activation_fn_str": "absent", "normalize_activations": False}),
        ("standard", {"normalize_activations": None, "sae_lens_version": "3.12.5"}),
        ("standard", {"hook_name": "absent", "hook_point": "blocks.0.attn.hook_q", "apply_b_dec_to_input": True}),
        ("gated", {"architecture": "gated"}),
        ("jumprelu", {"architecture": "jumprelu", "metadata": {"sae_lens_version": "5.11.0"}}),
        ("topk", {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}),
        ("topk", {"architecture": "topk", "activation_fn": "topk", "activation_fn_kwargs": {"k": K}}),
    ],
)
def test_older_layouts(architecture, changes, tmp_path):
    old(tmp_path, random_sae(INFERENCE[architecture]), **changes)
    opened = sae_lens.SAE.load_from_disk(tmp_path)
    assert opened.cfg.architecture() == architecture
    assert_same(sleave.load(tmp_path), opened.encode(RAW), opened(RAW), RAW)


def test_older_files_may_say_by_a_boolean_that_activations_are_scaled(tmp_path):
    old(tmp_path, random_sae(INFERENCE["standard"]), normalize_activations=True)
    with pytest.raises(sleave.SleaveError, match="SAELens opens such a file"):
        sleave.load(tmp_path)


@pytest.mark.parametrize("kwargs", [{}, None, "absent"])
def test_an_old_topk_without_its_k_is_refused_although_sae_lens_opens_it_as_relu(kwargs, tmp_path):
    old(tmp_path, random_sae(INFERENCE["topk"]), activation_fn_str="topk", activation_fn_kwargs=kwargs or {})
    assert sae_lens.SAE.load_from_disk(tmp_path).cfg.architecture() == "standard"
    with pytest.raises(sleave.SleaveError, match=r"activation_fn = 'topk'.*with its k.*codes are wrong"):
        sleave.load(tmp_path)


def test_an_old_tanh_is_refused(tmp_path):
    old(tmp_path, random_sae(INFERENCE["standard"]), activation_fn_str="tanh-relu")
    with pytest.raises(sleave.SleaveError, match="activation_fn = 'tanh-relu'"):
        sleave.load(tmp_path)


def test_fine_tuned_files_scale_codes_on_their_way_to_the_decoder(tmp_path):
    """SAELens 6 does not open these; before, it decoded (codes * scaling_factor) @ W_dec + b_dec."""
    theirs = random_sae(INFERENCE["standard"])
    old(tmp_path, theirs, finetuning_scaling_factor=True)
    file = tmp_path / "sae_weights.safetensors"
    factor = torch.rand(D_SAE, generator=torch.Generator().manual_seed(4)) + 0.5
    tensors = load_file(file)
    save_file(tensors | {"scaling_factor": factor}, file)
    codes = theirs.encode(RAW)
    assert_same(sleave.load(tmp_path), codes, (codes * factor) @ theirs.W_dec + theirs.b_dec, RAW)
    edit(tmp_path, finetuning_scaling_factor=False)
    with pytest.raises(sleave.SleaveError, match="finetuning_scaling_factor = false; SAELens refuses"):
        sleave.load(tmp_path)
    save_file(tensors | {"scaling_factor": torch.ones(D_SAE)}, file)  # for some time all files had this
    assert_same(sleave.load(tmp_path), codes, theirs(RAW), RAW)


# What cannot be read


@pytest.mark.parametrize(
    "architecture",
    ["transcoder", "skip_transcoder", "jumprelu_transcoder", "temporal", "matching_pursuit", "abstopk", "absent"],
)
def test_other_architectures_are_refused(architecture, tmp_path):
    saved(random_sae(INFERENCE["standard"]), tmp_path, architecture=architecture)
    with pytest.raises(
        sleave.SleaveError, match=r"architecture = .*; sleave reads 'standard', 'jumprelu', 'gated', 'topk'"
    ):
        sleave.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("layer_norm", "which no weights can take over"),
        ("constant_norm_rescale", "which no weights can take over"),
        ("covariance_whitening", "folds the whitening in when training ends"),
        ("something", "no such thing"),
    ],
)
def test_other_normalisations_are_refused(kind, reason, tmp_path):
    saved(random_sae(INFERENCE["standard"]), tmp_path, normalize_activations=kind)
    with pytest.raises(
        sleave.SleaveError, match=f"normalize_activations = '{kind}'; sleave reads 'none' and.*{reason}"
    ):
        sleave.load(tmp_path)


def test_live_ones_that_cannot_be_read_are_refused_too():
    transcoder = sae_lens.Transcoder(sae_lens.TranscoderConfig(**SIZE, d_out=D_IN, apply_b_dec_to_input=False))
    with pytest.raises(sleave.SleaveError, match="This Transcoder has architecture = 'transcoder'"):
        sleave.from_live(transcoder)
    with pytest.raises(sleave.SleaveError, match="normalize_activations = 'layer_norm'"):
        sleave.from_live(INFERENCE["standard"](normalize_activations="layer_norm"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_in": "absent"}, "d_in = None, d_sae = 40; both must be given"),
        (
            {"d_in": 13},
            r"does not fit its cfg.json \(d_in = 13, d_sae = 40\): W_enc has shape \(12, 40\); it should be \(13, 40\)",
        ),
        ({"architecture": "jumprelu"}, "It lacks threshold. It is not what it says"),
        ({"architecture": "topk", "k": "many"}, "k = 'many'; it must be a number above 0"),
        ({"architecture": "topk", "k": 41}, r"`k` \(= 41\) must be a whole number above 0 and at most d_sae"),
    ],
)
def test_settings_that_do_not_fit(change, message, tmp_path):
    saved(random_sae(INFERENCE["standard"]), tmp_path, **change)
    with pytest.raises(sleave.SleaveError, match=message):
        sleave.load(tmp_path)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (RAW[0], r"shape \(12,\); it must be a torch tensor of shape \(rows, 12\)"),
        (RAW[:, :5], r"shape \(400, 5\)"),
        (RAW[:0], r"shape \(0, 12\)"),
        (RAW * math.nan, "NaN or infinite"),
        (RAW * 0, "nothing but zeros"),
    ],
)
def test_bad_samples(sample, message, tmp_path):
    saved(random_sae(INFERENCE["standard"]), tmp_path, normalize_activations="expected_average_only_in")
    with pytest.raises(sleave.SleaveError, match=message):
        sleave.load(tmp_path, sample=sample)


@pytest.mark.parametrize("factor", ["2", -1.0, 0.0])
def test_a_scaling_factor_that_is_none(factor, tmp_path):
    saved(random_sae(INFERENCE["standard"]), tmp_path, normalize_activations="expected_average_only_in")
    (tmp_path / "activation_scaler.json").write_text(json.dumps({"scaling_factor": factor}))
    with pytest.raises(sleave.SleaveError, match=r"scaling_factor = .*; it must be a number above 0"):
        sleave.load(tmp_path)


@pytest.mark.parametrize("key", ["metadata", "activation_fn_kwargs"])
def test_settings_of_another_form(key, tmp_path):
    old(tmp_path, random_sae(INFERENCE["standard"]), **{key: "text"})
    with pytest.raises(sleave.SleaveError, match=f"{key} = 'text', where settings belong"):
        sleave.load(tmp_path)
