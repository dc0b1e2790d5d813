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
from sleave.evaluation.jackknife import interval
from sleave.evaluation.methods import Method
from sleave.experiment.collect import collect, write
from sleave.training.run import RunDirectory

CHANGED = "selective,constraint.weight=0.2/layer_08/seed_0"


def results(seed: int = 0, **heldout: Any) -> dict[str, Any]:
    fvu = 0.3 + 0.0001 * seed
    groups = {"scaled.fvu": [fvu - 0.001, fvu, fvu + 0.001], "scaled.other": [1.0, 2.0, 3.0]}
    part = {"scaled": {"fvu": fvu}, "codes": {"l0": 40.0}, "fingerprint": "f", "groups": groups, **heldout}
    return {
        "environment": {"processor": "a machine, 2 cores", "commit": "abc", "packages": {"torch": "2.13"}},
        "training": {"seed": seed, "recipe": "r", "architecture": "relu", "constraint": "none", "steps": 50},
        "heldout": part,
        "ground_truth": {"status": "ok", "settings": {"a": 3}, "mcc": 0.2, "intervals": {"mcc": [0.1, 0.3]}},
    }


def make_experiment(folder: Path) -> Path:
    for seed in (0, 1, 2):
        make_run(folder / f"none/layer_08/seed_{seed}", results=results(seed), seed=seed)
    changed = {"constraint": {"kind": "selective", "weight": 0.2}}
    make_run(folder / CHANGED, results=other(), **changed)
    names = [f"none/layer_08/seed_{seed}" for seed in (0, 1, 2)] + [CHANGED]
    settings = {CHANGED: {"constraint.weight": 0.2}}
    cells = {n: {"status": "finished", "settings": settings.get(n, {})} for n in names}
    write_json(folder / "experiment.json", {"title": "A grid", "cells": cells})
    return folder


def other() -> dict[str, Any]:
    """Of a method whose documents vary with the baseline's."""
    found = results(groups={"scaled.fvu": [0.3092, 0.31, 0.3109]}, scaled={"fvu": 0.31}, codes={"l0": 40.0})
    found["training"] |= {"recipe": "other", "constraint": "selective"}
    found["ground_truth"] |= {"gain": {"mcc": 0.01}, "gain_intervals": {"mcc": [0.005, 0.015]}}
    return found


def test_what_is_kept(tmp_path):
    found = collect(make_experiment(tmp_path), "sleave experiment x.toml")
    assert (found["title"], found["command"]) == ("A grid", "sleave experiment x.toml")
    assert (found["machines"], found["commits"]) == (["a machine, 2 cores, torch 2.13"], ["abc"])
    names = [(r["name"], r["method"], r["layer"], r["seed"], r["settings"]) for r in found["runs"]]
    assert names == [
        ("none/layer_08/seed_0", "none", 8, 0, {}),
        ("none/layer_08/seed_1", "none", 8, 1, {}),
        ("none/layer_08/seed_2", "none", 8, 2, {}),
        (CHANGED, "selective", 8, 0, {"constraint.weight": 0.2}),
    ]
    kept = found["runs"][0]["results"]["heldout"]
    assert kept["scaled"]["fvu"] == 0.3
    assert kept["groups"] == {"scaled.fvu": [0.299, 0.3, 0.301]}  # of figures that tables show
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


def test_intervals_over_seeds_and_of_differences_are_those_of_the_runs(tmp_path):
    after = {run["name"]: run["results"] for run in collect(make_experiment(tmp_path))["runs"]}
    before = {name: RunDirectory(tmp_path / name).results() for name in after}
    seeds = [Method({n: r for n, r in runs.items() if n != CHANGED}) for runs in (before, after)]
    low, high = (method.interval("heldout.scaled.fvu") for method in seeds)
    assert low == pytest.approx(high, rel=1e-9)
    assert high[1] - high[0] > 0.008  # documents that all seeds share are not averaged out: as wide as of one
    assert high == pytest.approx(interval(0.3001, [0.2991, 0.3001, 0.3011]), rel=1e-9)
    (one,), (two,) = compare(before), compare(after)
    assert (one.status, len(one.differences)) == ("ok", 3)
    for a, b in zip(one.differences, two.differences, strict=True):
        assert (a.figure, a.verdict) == (b.figure, b.verdict)
        assert b.interval == (a.interval and pytest.approx(a.interval, rel=1e-6))


def test_runs_that_are_not_of_the_experiment_or_not_measured_are_left_out(tmp_path):
    file = make_experiment(tmp_path) / "experiment.json"
    make_run(tmp_path / "stale/layer_08/seed_0", results=results())
    state = read_json(file)
    state["cells"][CHANGED]["status"] = "missing"
    write_json(file, state)
    assert [run["seed"] for run in collect(tmp_path)["runs"]] == [0, 1, 2]
    file.unlink()
    assert len(collect(tmp_path)["runs"]) == 5  # all there are


def test_commits_are_of_training_and_of_measuring(tmp_path):
    make_run(tmp_path / "one", results=results(environment={"commit": "def"}))
    assert collect(tmp_path)["commits"] == ["abc", "def"]


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
