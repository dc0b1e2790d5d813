"""`sleave audit` end to end, on a tiny model's activations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from small import make_material, small_recipe, write_recipe

import sleave
from sleave import jobs
from sleave.activations.store import Store
from sleave.base.errors import SleaveError
from sleave.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A folder with recipe.toml (layers 0 and 2), and runs/mine of it on layer 2."""
    folder = tmp_path_factory.mktemp("audit")
    values = make_material(folder)
    values["autoencoder"]["firing_rate"] = 0.2  # so that pairs fire together often enough to be ranked
    write_recipe(folder / "recipe.toml", values)
    jobs.train(small_recipe(values, layer=2), folder / "runs" / "mine")
    return folder


@pytest.fixture
def audit(study, tmp_path, capsys):
    """Run the verb; gives its exit status, what it printed, and where it wrote."""

    def run(*arguments):
        try:
            status = main(["audit", *map(str, arguments), "--out", str(tmp_path / "out")])
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, capsys.readouterr(), tmp_path / "out"

    return run


def found(out):
    return json.loads((out / "audit.json").read_text(encoding="utf-8"))


def rows(study, *splits):
    layer = [Store.open(study / "store").layer(2, s) for s in splits]
    return torch.cat([block for part in layer for block in part.blocks()])


def test_a_run_on_its_own_held_out_text(study, audit):
    status, printed, out = audit(study / "runs" / "mine")
    assert status == 0
    assert "suspects of absorption" in printed.out
    assert "Most mutual information" in printed.out
    assert f"Wrote {out / 'audit.json'} and {out / 'audit.html'}" in printed.err
    result = found(out)
    x = rows(study, "heldout")
    sae = sleave.load(study / "runs" / "mine")
    assert result["summary"]["rows"] == len(x)
    assert result["summary"]["l0"] == pytest.approx(float((sae.encode(x) > 0).sum(1).float().mean()))
    about = {"layer": "2", "rows of": "held-out documents", "architecture": "relu"}
    assert about.items() <= result["about"].items()
    assert {"python", "packages"} <= result["environment"].keys()
    assert sorted(p.name for p in out.iterdir()) == ["audit.html", "audit.json"]
    # The texts are those of the held-out documents, token by token.
    tokens = {t for contexts in result["contexts"].values() for c in contexts for t in c["tokens"]}
    corpus = "\n".join(json.loads(line)["text"] for line in (study / "text/news.jsonl").read_text().splitlines())
    assert len(tokens) > 20
    assert all(token in corpus for token in tokens)
    page = (out / "audit.html").read_text(encoding="utf-8")
    assert f"Audit of {study / 'runs' / 'mine'}" in page


def test_on_a_recipe_all_rows_are_read(study, audit):
    status, _, out = audit(study / "runs" / "mine" / "sae", study / "recipe.toml", "--layer", 2, "--pairs", 3)
    assert status == 0
    assert found(out)["summary"]["rows"] == len(rows(study, "train", "heldout"))
    assert all(len(ranking) <= 3 for ranking in found(out)["rankings"].values())


@pytest.mark.parametrize(("split", "splits"), [("train", ["train"]), ("all", ["train", "heldout"])])
def test_another_split(study, audit, split, splits):
    _, _, out = audit(study / "runs" / "mine", "--split", split)
    assert found(out)["summary"]["rows"] == len(rows(study, *splits))
    audit(study / "runs" / "mine", "--split", split, "--rows", 30)
    assert found(out)["summary"]["rows"] == 30


def test_a_store_that_moved_and_one_that_is_not_there_yet(study, audit, tmp_path):
    moved = shutil.copytree(study / "store", tmp_path / "moved")
    status, _, out = audit(study / "runs" / "mine", "--harvest.store", moved)
    before = found(out)
    assert status == 0
    status, printed, _ = audit(study / "runs" / "mine", "--harvest.store", tmp_path / "new")
    assert status == 0
    assert "Harvesting" in printed.err
    assert found(out) == before


def test_a_run_and_the_autoencoder_in_it_are_of_the_same_text(study):
    run = study / "runs" / "mine"
    assert jobs.own_recipe(run) == jobs.own_recipe(run / "sae")
    assert jobs.own_recipe(run, {"harvest": {"store": "elsewhere"}}).harvest.store == "elsewhere"


def test_in_python_nothing_is_written_without_a_folder(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sae = sleave.load(study / "runs" / "mine")
    result = jobs.audit(sae, jobs.own_recipe(study / "runs" / "mine"), rows=50)
    assert (result.summary.rows, result.about["autoencoder"]) == (50, "ReLUAutoencoder")
    assert list(tmp_path.iterdir()) == []


def test_without_out_it_is_named_after_the_path(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(study / "runs" / "mine", tmp_path / "runs" / "mine")
    assert main(["audit", "runs/mine", "--harvest.store", str(study / "store")]) == 0
    assert (tmp_path / "audits" / "runs_mine" / "audit.html").is_file()


def test_without_a_tokenizer_tokens_are_numbers(study, audit, tmp_path, monkeypatch):
    def missing(_settings):
        raise SleaveError("The model has gone.")

    monkeypatch.setattr("sleave.language.texts.load_tokenizer", missing)
    status, printed, out = audit(study / "runs" / "mine")
    assert status == 0
    assert "Tokens are shown by their numbers. The model has gone." in printed.err
    assert next(iter(found(out)["contexts"].values()))[0]["tokens"][0].startswith("<")


def test_an_audit_takes_the_place_of_the_one_before(study, audit):
    _, _, out = audit(study / "runs" / "mine")
    first = found(out)
    audit(study / "runs" / "mine", "--rows", 40)
    assert found(out)["summary"]["rows"] == 40 != first["summary"]["rows"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: PATH"),
        (("nowhere",), "`nowhere` does not exist"),
        (("nowhere", "RECIPE", "--layer", "2"), "`nowhere` does not exist"),
        (("RUN", "RECIPE"), "The recipe reads layers 0, 2. Say which one the autoencoder is of, such as --layer 8."),
        (("RUN", "--harvest.store", "None"), "the recipe has no `harvest.store`"),
        (("RUN", "--split", "some"), "invalid choice: 'some'"),
        (("RUN", "--rows", "1"), "`rows` (= 1) must be at least 2"),
        (("RUN", "--pairs", "0"), "`pairs` (= 0)"),
        (("RUN", "--harvest.context_length", "9"), "holds the activations of another harvest"),
        (("RUN", "--zzz", "9"), "--zzz is not an option. `sleave audit --help` lists them."),
    ],
)
def test_mistakes(study, audit, arguments, message):
    names = {"RECIPE": study / "recipe.toml", "RUN": study / "runs" / "mine"}
    status, printed, out = audit(*(names.get(a, a) for a in arguments))
    assert status == 2
    assert message in printed.err
    assert not out.exists()


def test_another_width(study, tmp_path):
    sae = sleave.ReLUAutoencoder(5, 8)
    message = r"The autoencoder `ReLUAutoencoder` reads activations of width 5, but those in `.*store` have width 16\."
    with pytest.raises(SleaveError, match=message):
        jobs.audit(sae, jobs.own_recipe(study / "runs" / "mine"), tmp_path)


def test_help_shows_the_runs_own_values(study, audit):
    status, printed, _ = audit("--help")
    assert status == 0
    text = " ".join(printed.out.split())
    for line in (
        "sleave audit runs/mine",
        "--rows N",
        "--harvest.store",
        "leads to be read up in the texts, not proofs",
    ):
        assert line in text
