"""dictionary_learning's files and objects, in and out."""

from __future__ import annotations

import json

import pytest
import torch
from agreement import D_IN, D_SAE, K, assert_same, randomise, residual_stream
from peers import dictionaries, dictionary_trainers, dictionary_utils, matryoshka, top_k

import sleave
from sleave.interop.dictionary_learning import CLASSES

RAW = residual_stream()
MAKE = {
    "AutoEncoder": lambda: dictionaries.AutoEncoder(D_IN, D_SAE),
    "AutoEncoderNew": lambda: dictionaries.AutoEncoderNew(D_IN, D_SAE),
    "GatedAutoEncoder": lambda: dictionaries.GatedAutoEncoder(D_IN, D_SAE),
    "JumpReluAutoEncoder": lambda: dictionaries.JumpReluAutoEncoder(D_IN, D_SAE),
    "AutoEncoderTopK": lambda: top_k.AutoEncoderTopK(D_IN, D_SAE, K),
    "BatchTopKSAE": lambda: dictionary_trainers.BatchTopKSAE(D_IN, D_SAE, K),
    "MatryoshkaBatchTopKSAE": lambda: matryoshka.MatryoshkaBatchTopKSAE(D_IN, D_SAE, K, [10, 20, 10]),
}
UNCENTRED = ("AutoEncoderNew", "JumpReluAutoEncoder")


def random_dictionary(kind):
    theirs = randomise(MAKE[kind]())
    g = torch.Generator().manual_seed(5)
    if kind in UNCENTRED:
        bias, W_enc = (
            (theirs.b_enc, theirs.W_enc)
            if kind in "JumpReluAutoEncoder"
            else (theirs.encoder.bias, theirs.encoder.weight.t())
        )
        bias.sub_(RAW.mean(dim=0) @ W_enc)
    if kind == "JumpReluAutoEncoder":
        theirs.threshold.copy_(torch.rand(D_SAE, generator=g))
    elif hasattr(theirs, "threshold"):
        theirs.threshold.fill_(1.1)
    return theirs


def saved(theirs, folder, **trainer):
    """As trainSAE saves it."""
    settings = {"dict_class": type(theirs).__name__, "activation_dim": D_IN, "dict_size": D_SAE}
    settings |= {"k": K} if hasattr(theirs, "k") else {}
    (folder / "config.json").write_text(json.dumps({"trainer": settings | trainer, "buffer": {}}))
    torch.save({k: v.cpu() for k, v in theirs.state_dict().items()}, folder / "ae.pt")
    return folder


def test_every_class_of_theirs_is_tried():
    assert list(CLASSES) == list(MAKE)


@pytest.mark.parametrize("kind", MAKE)
def test_what_dictionary_learning_saves_is_the_same_function_here(kind, tmp_path, capsys):
    theirs = random_dictionary(kind)
    saved(theirs, tmp_path)
    opened, _ = dictionary_utils.load_dictionary(str(tmp_path), device="cpu")
    assert ("Normalizing decoder weights" in capsys.readouterr().out) == (kind == "AutoEncoder")
    opened.requires_grad_(False)
    tolerance = 2e-4 if kind in UNCENTRED else 2e-5
    for ours in (sleave.load(tmp_path), sleave.load(tmp_path / "ae.pt")):
        assert_same(ours, opened.encode(RAW), opened(RAW), RAW, tolerance)
    assert_same(sleave.from_live(theirs), theirs.encode(RAW), theirs(RAW), RAW, tolerance)  # of its own norms


def test_a_live_jumprelu_may_centre_what_it_reads():
    theirs = random_dictionary("JumpReluAutoEncoder")
    theirs.apply_b_dec_to_input = True  # as after from_pretrained(load_from_sae_lens=True)
    theirs.b_enc.add_(RAW.mean(dim=0) @ theirs.W_enc)
    assert_same(sleave.from_live(theirs), theirs.encode(RAW), theirs(RAW), RAW)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_live_matryoshka_may_have_groups_switched_off(groups):
    theirs = random_dictionary("MatryoshkaBatchTopKSAE")
    theirs.active_groups = groups
    assert_same(sleave.from_live(theirs), theirs.encode(RAW), theirs(RAW), RAW)


def test_subclasses_are_what_they_inherit_from():
    class Mine(dictionaries.AutoEncoder):
        pass

    theirs = randomise(Mine(D_IN, D_SAE))
    assert_same(sleave.from_live(theirs), theirs.encode(RAW), theirs(RAW), RAW)


@pytest.mark.parametrize("kind", MAKE)
def test_without_its_config_a_file_is_told_by_its_tensors(kind, tmp_path):
    saved(random_dictionary(kind), tmp_path)
    whole = sleave.load(tmp_path)
    (tmp_path / "config.json").unlink()
    if kind in ("AutoEncoderTopK", "BatchTopKSAE"):
        with pytest.raises(sleave.SleaveError, match=r"may be AutoEncoderTopK or BatchTopKSAE, and there is no config"):
            sleave.load(tmp_path)
    else:
        assert torch.equal(sleave.load(tmp_path / "ae.pt").encode(RAW), whole.encode(RAW))


def test_checkpoints_have_their_config_in_the_folder_above(tmp_path):
    theirs = random_dictionary("BatchTopKSAE")
    saved(theirs, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "ae.pt").rename(tmp_path / "checkpoints" / "ae_100.pt")
    ours = sleave.load(tmp_path / "checkpoints" / "ae_100.pt")
    assert_same(ours, theirs.encode(RAW), theirs(RAW), RAW)


@pytest.mark.parametrize("kind", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
def test_a_threshold_that_was_never_set_comes_from_a_sample(kind, tmp_path):
    theirs = random_dictionary(kind)
    theirs.threshold.fill_(-1.0)
    saved(theirs, tmp_path)
    assert int((theirs.encode(RAW) > 0).sum()) > 2 * K * len(RAW)  # what it does without a threshold
    with pytest.raises(
        sleave.SleaveError, match=r"never set .*let every positive feature fire, far more than k = 5.*sample=x"
    ):
        sleave.load(tmp_path)
    codes = theirs.encode(RAW, use_threshold=False)  # the k strongest of a row, on average over these rows
    assert_same(sleave.load(tmp_path, sample=RAW), codes, theirs.decode(codes), RAW)
    assert_same(sleave.from_live(theirs, sample=RAW), codes, theirs.decode(codes), RAW)


# Out


def fitting(architecture, centred, unit=True):
    """One of ours that suits RAW."""
    made = {
        "relu": sleave.ReLUAutoencoder,
        "jumprelu": sleave.JumpReLUAutoencoder,
        "gated": sleave.GatedAutoencoder,
        "topk": lambda *a: sleave.TopKAutoencoder(*a, k=K),
    }[architecture](D_IN, D_SAE, centred)
    sae = randomise(made)
    if architecture == "jumprelu":
        sae.threshold.copy_(torch.rand(D_SAE, generator=torch.Generator().manual_seed(5)))
    if not centred:
        sae.b_enc.sub_(sae.b_dec @ sae.W_enc)
        if architecture == "gated":
            sae.b_mag.sub_(sae.b_dec @ sae.W_enc * sae.r_mag.exp())
    if unit:
        sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
    return sae.eval()


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("architecture", ["relu", "jumprelu", "gated", "topk"])
def test_dictionary_learning_opens_what_we_save(architecture, centred, unit, tmp_path, capsys):
    sae = fitting(architecture, centred, unit)
    sleave.save(sae, tmp_path, {"model_name": "m"}, format="dictionary_learning")
    theirs, config = dictionary_utils.load_dictionary(str(tmp_path), device="cpu")
    theirs.requires_grad_(False)
    assert config["metadata"]["model_name"] == "m"
    assert capsys.readouterr().out == ""  # no decoder was normalised
    assert_same(sae, theirs.encode(RAW), theirs(RAW), RAW, tolerance=2e-4)
    assert_same(sleave.load(tmp_path), theirs.encode(RAW), theirs(RAW), RAW, tolerance=2e-4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ae.pt", "config.json"]


def test_what_dictionary_learning_has_no_room_for_is_refused(tmp_path):
    with pytest.raises(sleave.SleaveError, match=r"batch_topk autoencoder cannot be written .* save sleave.fold"):
        sleave.save(sleave.BatchTopKAutoencoder(4, 8, k=2), tmp_path, format="dictionary_learning")
    with pytest.raises(sleave.SleaveError, match=r"Files have no batch norm: save sleave.fold"):
        sleave.save(sleave.ReLUAutoencoder(4, 8, batch_norm=True), tmp_path, format="dictionary_learning")
    with pytest.raises(
        sleave.SleaveError, match=r"`format` .= 'hdf5'. must be one of 'sae_lens', 'dictionary_learning'"
    ):
        sleave.save(sleave.ReLUAutoencoder(4, 8), tmp_path, format="hdf5")
    assert list(tmp_path.iterdir()) == []


def test_ae_pt_is_whole_or_as_it_was(tmp_path, monkeypatch):
    sleave.save(fitting("relu", True), tmp_path, format="dictionary_learning")
    before = (tmp_path / "ae.pt").read_bytes()

    def half(tensors, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        sleave.save(fitting("topk", True), tmp_path, format="dictionary_learning")
    assert (tmp_path / "ae.pt").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ae.pt", "config.json"]


# What cannot be read


def test_settings_and_tensors_that_do_not_belong_together(tmp_path):
    saved(random_dictionary("AutoEncoderTopK"), tmp_path, k=6)
    with pytest.raises(sleave.SleaveError, match=r"has k = 5, and .*config.json` k = 6"):
        sleave.load(tmp_path)
    saved(random_dictionary("AutoEncoder"), tmp_path, dict_class="GatedAutoEncoder")
    with pytest.raises(sleave.SleaveError, match=r"It lacks decoder_bias, gate_bias.*It also has bias, encoder.bias"):
        sleave.load(tmp_path)
    saved(random_dictionary("AutoEncoder"), tmp_path, dict_class="IdentityDict")
    with pytest.raises(sleave.SleaveError, match="dict_class = 'IdentityDict'; sleave reads 'AutoEncoder'"):
        sleave.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder.weight": torch.zeros(D_IN, D_SAE)}, r"encoder.weight has shape \(12, 40\); it should be \(40, 12\)"),
        ({"decoder.weight": torch.zeros(D_SAE)}, "decoder.weight has shape .40,.; it must be a matrix"),
        ({"bias": torch.full((D_IN,), float("nan"))}, "bias holds NaN or infinite"),
        ({"more": torch.zeros(1)}, "It also has more"),
    ],
)
def test_tensors_that_do_not_fit(change, message, tmp_path):
    saved(random_dictionary("AutoEncoder"), tmp_path)
    torch.save(torch.load(tmp_path / "ae.pt") | change, tmp_path / "ae.pt")
    with pytest.raises(sleave.SleaveError, match=message):
        sleave.load(tmp_path)


class Trap:
    """Would write a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_is_unpickled(tmp_path):
    torch.save({"bias": Trap(tmp_path / "sprung")}, tmp_path / "ae.pt")
    with pytest.raises(sleave.SleaveError, match=r"cannot be read as tensors.*which sleave does not unpickle"):
        sleave.load(tmp_path / "ae.pt")
    assert not (tmp_path / "sprung").exists()


def test_damaged_files(tmp_path):
    saved(random_dictionary("AutoEncoder"), tmp_path)
    whole = (tmp_path / "ae.pt").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        (tmp_path / "ae.pt").write_bytes(content)
        with pytest.raises(sleave.SleaveError, match=r"cannot be read as tensors.*truncated or altered"):
            sleave.load(tmp_path)
    torch.save([1, 2], tmp_path / "ae.pt")
    with pytest.raises(sleave.SleaveError, match="holds a list, not the tensors"):
        sleave.load(tmp_path)
    (tmp_path / "ae.pt").write_bytes(whole)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(sleave.SleaveError, match="holds a list, no settings"):
        sleave.load(tmp_path)
