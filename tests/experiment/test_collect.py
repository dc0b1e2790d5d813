"""What is kept of an experiment's runs: the figures of tables, and nothing of what is large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_run

from sleave.base.errors import SleaveError
from sleave.base.files import read_json, write_json
from sleave.evaluation.compare import compare
from sleave.evaluation.figures import FIGURES
from sleave.evaluation.methods import Method
from sleave.experiment.collect import collect, write
from sleave.training.run import RunDirectory


def results(seed: int = 0, **heldout: Any) -> dict[str, Any]:
    fvu = 0.3 + 0.01 * seed
    groups = {"scaled.fvu": [fvu - 0.001, fvu, fvu + 0.001]}
    part = {"scaled": {"fvu": fvu}, "fingerprint": "f", "groups": groups, **heldout}
    return {
        "environment": {"processor": "a machine, 2 cores", "commit": "abc", "packages": {"torch": "2.13"}},
        "training": {"seed": seed, "recipe": "r", "architecture": "relu", "constraint": "none", "steps": 50},
        "heldout": part,
    }


def make_experiment(folder: Path) -> Path:
    for seed in (0, 1):
        make_run(folder / f"none/layer_08/seed_{seed}", results=results(seed), seed=seed)
    changed = {"constraint": {"kind": "selective", "weight": 0.2}}
    make_run(folder / "selective,constraint.weight=0.2/layer_08/seed_0", results=results(), **changed)
    write_json(folder / "experiment.json", {"title": "A grid"})
    return folder


def test_what_is_kept(tmp_path):
    found = collect(make_experiment(tmp_path), "sleave experiment x.toml")
    assert (found["title"], found["command"]) == ("A grid", "sleave experiment x.toml")
    assert (found["machines"], found["commits"]) == (["a machine, 2 cores, torch 2.13"], ["abc"])
    names = [(r["name"], r["method"], r["layer"], r["seed"], r["settings"]) for r in found["runs"]]
    assert names == [
        ("none/layer_08/seed_0", "none", 8, 0, {}),
        ("none/layer_08/seed_1", "none", 8, 1, {}),
        (
            *("selective,constraint.weight=0.2/layer_08/seed_0", "selective", 8, 0),
            {"constraint.weight": 0.2},
        ),
    ]
    kept = found["runs"][0]["results"]["heldout"]
    assert kept["scaled"]["fvu"] == 0.3
    assert "groups" not in kept
    assert "histogram" not in json.dumps(found)


def test_figures_and_intervals_are_those_of_the_run(tmp_path):
    run = RunDirectory(make_experiment(tmp_path) / "none/layer_08/seed_1")
    before, after = Method({"": run.results()}), Method({"": collect(tmp_path)["runs"][1]["results"]})
    seen = 0
    for figure in (f for figures in FIGURES.values() for f in figures):
        value = before.value(figure.path)
        assert after.value(figure.path) == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)
        ends = before.interval(figure.path)
        assert after.interval(figure.path) == (None if ends is None else pytest.approx(ends, rel=1e-5))
        seen += ends is not None
    assert seen > 0


def test_what_was_collected_can_be_compared(tmp_path):
    found = {run["name"]: run["results"] for run in collect(make_experiment(tmp_path))["runs"]}
    assert [c.method for c in compare(found, ["none/layer_08/seed_0", "none/layer_08/seed_1"])]


def test_a_status_is_kept(tmp_path):
    bare = {"absorption": {"status": "no_letter_features", "mean": None}}
    make_run(tmp_path / "one", results={**results(), **bare})
    (run,) = collect(tmp_path)["runs"]
    assert run["results"]["absorption"] == {"status": "no_letter_features"}


def test_it_is_written_whole(tmp_path):
    path = write(make_experiment(tmp_path / "out"), tmp_path / "results" / "grid.json")
    assert read_json(path) == collect(tmp_path / "out")
    assert path.stat().st_size < 10_000


def test_nothing_finished(tmp_path):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "config.toml").write_text("seed = 0\n")
    with pytest.raises(SleaveError, match=r"No run below `.*` is finished"):
        collect(tmp_path)
