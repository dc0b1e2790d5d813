"""What `harvest`, `train` and `evaluate` do with runs and stores that are there, missing, or of other settings."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import content, make_material, small_recipe

from sleave import jobs
from sleave.base.errors import SleaveError
from sleave.jobs import evaluation
from sleave.jobs.families import FAMILIES
from sleave.language.model import HookedModel
from sleave.training.run import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    values = make_material(tmp_path_factory.mktemp("jobs"))
    jobs.harvest(small_recipe(values))
    return values | {"layer": 0}


@pytest.fixture(scope="module")
def trained(material, tmp_path_factory) -> RunDirectory:
    (run,) = jobs.train(small_recipe(material), tmp_path_factory.mktemp("runs") / "run")
    return run


@pytest.fixture
def run(trained, tmp_path) -> RunDirectory:
    """A copy of a finished run."""
    return RunDirectory(shutil.copytree(trained.path, tmp_path / "run"))


def test_a_finished_run_is_left_alone(material, run, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "open_source", None)
    before = content(run.path)
    (again,) = jobs.train(small_recipe(material), run.path)
    assert again.path == run.path
    assert content(run.path) == before
    assert f"{run.path} is finished already; reusing it." in capsys.readouterr().err


def test_another_run_is_refused_before_anything_is_read(material, run, monkeypatch):
    monkeypatch.setattr(jobs, "open_source", None)
    recipe = small_recipe(material, training={"steps": 7}, constraint={"weight": 0.9})
    with pytest.raises(SleaveError) as error:
        jobs.train(recipe, run.path)
    assert str(error.value).splitlines()[1:3] == [
        "  `constraint.weight`: there 0.1, now 0.9",
        "  `training.steps`: there 6, now 7",
    ]


def test_each_layer_gets_a_folder_of_its_own(material, trained, tmp_path):
    runs = jobs.train(small_recipe(material, layer=None), tmp_path / "both")
    assert [r.path.name for r in runs] == ["layer_00", "layer_02"]
    assert [r.config()["layer"] for r in runs] == [0, 2]
    assert content(runs[0].sae) == content(trained.sae)
    assert content(runs[0].sae) != content(runs[1].sae)
    assert [r.path for r in jobs.runs_in(tmp_path / "both")] == [r.path for r in runs]
    first, second, alone = (r.results()["training"]["activations"] for r in (*runs, trained))
    assert first == alone != second


def test_training_harvests_first(material, trained, tmp_path):
    recipe = small_recipe(material, harvest={"store": str(tmp_path / "store")})
    (run,) = jobs.train(recipe, tmp_path / "run")
    assert content(run.sae) == content(trained.sae)
    assert run.results()["training"]["activations"] == trained.results()["training"]["activations"]
    assert content(tmp_path / "store") == content(Path(material["harvest"]["store"]))


def test_a_mistake_in_the_text_leaves_no_run_in_the_way(material, tmp_path):
    wrong = small_recipe(
        material,
        corpus=[{"kind": "files", "paths": [str(tmp_path / "none.txt")]}],
        harvest={"store": str(tmp_path / "store")},
    )
    with pytest.raises(SleaveError, match=r"`.*none.txt` matches no file"):
        jobs.train(wrong, tmp_path / "run")
    (run,) = jobs.train(small_recipe(material, harvest={"store": str(tmp_path / "store")}), tmp_path / "run")
    assert run.finished


def figures(results):
    """The part of held-out rows, without the time it took."""
    return {name: value for name, value in results["heldout"].items() if name != "seconds"}


def test_evaluation_is_kept_until_asked_for_again(run, monkeypatch):
    results = jobs.evaluate(run)
    assert {"heldout", "training"} <= results.keys()
    assert RunDirectory(run.path).results() == results
    run.add_results("heldout", {**results["heldout"], "rows": 0})
    assert jobs.evaluate(run)["heldout"]["rows"] == 0
    assert jobs.evaluate(run, again=True)["heldout"].items() >= figures(results).items()


def test_evaluation_with_a_store_that_moved(material, run, tmp_path):
    expected = figures(jobs.evaluate(run))
    moved = shutil.copytree(material["harvest"]["store"], tmp_path / "moved")
    run.add_results("heldout", {**run.results()["heldout"], "rows": 0})
    assert jobs.evaluate(run, str(moved))["heldout"]["rows"] == 0  # it is there
    assert jobs.evaluate(run, str(moved), again=True)["heldout"].items() >= expected.items()


@pytest.mark.parametrize(
    ("changed", "calls"),
    [({}, 0), ({"status": "too_few"}, 0), ({"status": "not_installed"}, 1), ({"status": "no_store"}, 1)],
)
def test_what_was_missing_then_is_looked_for_again(run, monkeypatch, changed, calls):
    measured = []
    family = replace(FAMILIES["probing"], measure=lambda subject: measured.append(subject) or {"status": "ok"})
    monkeypatch.setattr(evaluation, "FAMILIES", {"probing": family})
    asked = jobs.evaluate(run, suite="probing")["probing"]
    assert asked["environment"].keys() == {"commit", "sleave", "torch"}
    assert asked["environment"]["torch"] == torch.__version__
    run.add_results("probing", asked | changed)
    jobs.evaluate(run, suite="probing")
    assert len(measured) == 1 + calls


def test_an_audit_whose_file_is_gone_is_made_again(run):
    jobs.evaluate(run, suite="audit")
    run.audit_file.unlink()
    jobs.evaluate(run, suite="audit")
    assert run.audit_file.is_file()


def test_evaluation_without_a_store(material, tmp_path):
    """Documents are not known, and rows that follow each other count as one: too few here for intervals."""
    (run,) = jobs.train(small_recipe(material, harvest={"store": None}), tmp_path / "live")
    live = jobs.evaluate(run)["heldout"]
    assert (live["status"], live["groups"]) == ("ok", {})
    assert live["rows"] > 20


def test_groups_are_a_setting_that_measures_anew(run):
    before = jobs.evaluate(run)["heldout"]
    after = jobs.evaluate(run, settings={"groups": 3})["heldout"]
    assert len(before["groups"]["scaled.fvu"]) > len(after["groups"]["scaled.fvu"]) == 3
    assert after["settings"] == {"max_rows": 16_384, "groups": 3}
    assert after["fingerprint"] == before["fingerprint"]


def test_evaluation_never_begins_a_harvest(run, tmp_path, monkeypatch):
    monkeypatch.setattr(HookedModel, "load", None)
    with pytest.raises(SleaveError, match=r"There is no activation store at `.*mistyped`: no such folder. Make one"):
        jobs.evaluate(run, str(tmp_path / "mistyped"))
    assert not (tmp_path / "mistyped").exists()


def test_evaluation_refuses_the_store_of_another_harvest(material, run, tmp_path):
    other = small_recipe(material, harvest={"store": str(tmp_path / "other"), "heldout_fraction": 0.5})
    jobs.harvest(other)
    with pytest.raises(SleaveError, match=r"another harvest:\n  `harvest.heldout_fraction`: there 0.5, now 0.25"):
        jobs.evaluate(run, str(tmp_path / "other"))


def test_evaluation_of_what_is_not_finished(material, run):
    run.results_file.unlink()
    with pytest.raises(SleaveError, match=r"is not finished. Run the same `sleave train` command again"):
        jobs.evaluate(run)


def test_no_runs(tmp_path):
    with pytest.raises(SleaveError, match=r"There is no run at `.*nothing`"):
        jobs.runs_in(tmp_path / "nothing")


def test_runs_are_in_the_order_of_their_numbers(tmp_path):
    names = ["none_0.08", "none_0.6", "none_1.5", "none_3", "run5", "run10"]
    for name in reversed(names):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.toml").write_text("")
    assert [run.path.name for run in jobs.runs_in(tmp_path)] == names
    with pytest.raises(SleaveError, match="it does not exist"):
        jobs.runs_in(tmp_path / "nowhere")
