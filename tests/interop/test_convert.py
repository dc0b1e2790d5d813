"""`sleave convert`."""

import json

import pytest
import torch
from agreement import D_IN, D_SAE, assert_same, randomise, residual_stream
from peers import dictionary_utils, sae_lens

import sleave
from sleave.cli import main

RAW = residual_stream()


def test_there_and_back(tmp_path, capsys):
    sae = randomise(sleave.TopKAutoencoder(D_IN, D_SAE, True, k=5)).eval()
    sleave.save(sae, tmp_path / "a")
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--to", "dictionary_learning"]) == 0
    assert f"Wrote {tmp_path / 'b'}: topk, d_in = 12, d_sae = 40, for dictionary_learning." in capsys.readouterr().err
    theirs, config = dictionary_utils.load_dictionary(str(tmp_path / "b"), device="cpu")
    theirs.requires_grad_(False)
    assert_same(sae, theirs.encode(RAW), theirs(RAW), RAW)
    assert config["metadata"]["converted_from"] == str(tmp_path / "a")
    assert main(["convert", str(tmp_path / "b"), str(tmp_path / "c")]) == 0
    assert torch.equal(sleave.load(tmp_path / "c").encode(RAW), sae.encode(RAW))
    assert sae_lens.SAE.load_from_disk(tmp_path / "c").cfg.metadata.converted_from == str(tmp_path / "b")


@pytest.mark.parametrize("name", ["folder", "file"])
def test_what_is_there_is_not_overwritten(name, tmp_path, capsys):
    sleave.save(sleave.ReLUAutoencoder(4, 8), tmp_path / "a")
    out = tmp_path / name
    out.mkdir() if name == "folder" else out.write_text("mine")
    assert main(["convert", str(tmp_path / "a"), str(out)]) == 2
    assert f"`{out}` is there already" in capsys.readouterr().err
    assert out.read_text() == "mine" if name == "file" else list(out.iterdir()) == []


def test_mistakes(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "does not exist. Give a run directory" in capsys.readouterr().err
    sleave.save(sleave.ReLUAutoencoder(4, 8), tmp_path / "a")
    with pytest.raises(SystemExit):
        main(["convert", str(tmp_path / "a"), str(tmp_path / "b"), "--to", "numpy"])
    assert "'numpy'" in capsys.readouterr().err
    config = json.loads((tmp_path / "a" / "cfg.json").read_text()) | {
        "normalize_activations": "expected_average_only_in"
    }
    (tmp_path / "a" / "cfg.json").write_text(json.dumps(config))
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "sleave.load(path, sample=x)" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    out = capsys.readouterr().out
    assert "sleave convert runs/mine their/folder --to dictionary_learning" in out
    assert "sparsify or Gemma Scope" in out
