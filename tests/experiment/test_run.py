"""From the file of an experiment to its table and page: what is made, made again, refused and reported."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import tomli_w
from grids import HereEngine, make_experiment, write_experiment
from small import make_material, write_recipe
from toy_run import weights

from sleave import jobs
from sleave.base.errors import SleaveError
from sleave.base.files import exclusive, write_json
from sleave.cli import main
from sleave.experiment import run as run_module
from sleave.experiment.run import Finished, open_experiment, run_experiment
from sleave.experiment.state import last_step
from sleave.experiment.work import Task, attempt
from sleave.jobs import evaluation
from sleave.jobs.families import FAMILIES
from sleave.recipe import merged
from sleave.training import loop
from sleave.training.run import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ["none/layer_03/seed_5", "selective/layer_03/seed_5"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy_grid.toml, and out/ with all its runs."""
    folder = tmp_path_factory.mktemp("run")
    run_it(make_experiment(folder), folder / "out")
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "copy")


def run_it(file: Path, out: Path) -> tuple[Finished, list[str]]:
    """What came of it, and which runs were tried."""
    engine = HereEngine()
    return run_experiment(open_experiment(file, out), engine), engine.tried


def states(out: Path) -> dict[str, str]:
    return {name: cell["status"] for name, cell in json.loads((out / "experiment.json").read_text())["cells"].items()}


def test_runs_table_and_page(made):
    out = made / "out"
    assert states(out) == dict.fromkeys(NAMES, "finished")
    runs = [RunDirectory(out / name) for name in NAMES]
    assert [run.results()["heldout"]["status"] for run in runs] == ["ok", "ok"]
    assert all(name in (out / "table.md").read_text() for name in NAMES)
    assert (out / "table.csv").read_text().count("\n") >= 2
    assert "<html" in (out / "report.html").read_text()


def test_a_run_is_what_train_makes_of_the_recipe(made, tmp_path):
    (run,) = jobs.train(open_experiment(made / "toy_grid.toml").cells[1].recipe, tmp_path / "run")
    assert weights(run.path) == weights(made / "out" / NAMES[1])


def test_what_is_finished_is_left_alone(folder):
    before = weights(folder / "out" / NAMES[0])
    done, tried = run_it(folder / "toy_grid.toml", folder / "out")
    assert tried == []
    assert (len(done.results), len(done.compared), done.failed) == (2, 1, {})
    assert weights(folder / "out" / NAMES[0]) == before


def test_what_is_not_measured_is_and_nothing_trained(folder):
    run = RunDirectory(folder / "out" / NAMES[0])
    results = run.results()
    write_json(run.results_file, {name: part for name, part in results.items() if name != "heldout"})
    run.checkpoint_file.unlink()
    _, tried = run_it(folder / "toy_grid.toml", folder / "out")
    assert tried == NAMES[:1]
    assert run.results()["heldout"]["fingerprint"] == results["heldout"]["fingerprint"]
    assert not run.checkpoint_file.exists()


def test_other_settings_of_the_evaluation_measure_anew(folder):
    write_experiment(folder / "toy_grid.toml", "toy.toml", methods={"none": {"evaluation": {"groups": 3}}})
    _, tried = run_it(folder / "toy_grid.toml", folder / "out")
    assert tried == NAMES[:1]
    results = RunDirectory(folder / "out" / NAMES[0]).results()
    assert results["heldout"]["settings"]["groups"] == 3


def test_a_setting_taken_back_to_none_measures_anew(folder):
    """As TOML has it, what is None is not there; in the run's config it still is."""
    asked = {"evaluation": {"unlearning": {"multiple_choice": {"forget": ["a.jsonl"], "retain": ["b.jsonl"]}}}}
    run = RunDirectory(folder / "out" / NAMES[0])
    run.config_file.write_text(tomli_w.dumps(merged(run.config(), asked)))
    (cell, _) = open_experiment(folder / "toy_grid.toml", folder / "out").cells
    seen = []

    def measure(subject):
        seen.append(subject.recipe.evaluation.unlearning.multiple_choice)
        return {"status": "ok"}

    with pytest.MonkeyPatch.context() as patch:
        families = {"unlearning": replace(FAMILIES["unlearning"], measure=measure)}
        patch.setattr(evaluation, "FAMILIES", families)
        settings = cell.recipe.evaluation
        task = Task(cell.name, cell.recipe.to_dict(), run.path, ("unlearning",), folder / "log", 1, folder)
        assert attempt(task) is None
        assert evaluation.unmeasured(run, "unlearning", cell.recipe) == ()
    assert seen == [settings.unlearning.multiple_choice] == [None]


@pytest.mark.parametrize("status", ["no_store", "not_installed"])
def test_what_cannot_be_measured_here_is_not_tried_each_time(folder, monkeypatch, status):
    """The same at the end, in the list and when the command is given again; once it can be measured, it is."""
    possible = []
    family = replace(
        FAMILIES["probing"],
        measure=lambda subject: {"status": "ok" if possible else status, "why": "A reason."},
        possible=lambda recipe: bool(possible),
    )
    monkeypatch.setattr(evaluation, "FAMILIES", {**FAMILIES, "probing": family})
    file = write_experiment(folder / "toy_grid.toml", "toy.toml", suites=["heldout", "probing"])
    assert run_it(file, folder / "out")[1] == NAMES
    assert states(folder / "out") == dict.fromkeys(NAMES, "finished")
    assert open_experiment(file, folder / "out").record().named("finished") == NAMES
    assert run_it(file, folder / "out")[1] == []
    possible.append(True)
    assert open_experiment(file, folder / "out").record().named("missing") == NAMES
    assert run_it(file, folder / "out")[1] == NAMES
    assert run_it(file, folder / "out")[1] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_last_step_comes_before_measuring(made, tmp_path, monkeypatch, number):
    """Training is then done and ends as it always does, with the signal in its hands."""
    (cell, _) = open_experiment(made / "toy_grid.toml", tmp_path).cells
    task = Task(cell.name, cell.recipe.to_dict(), tmp_path / "run", ("heldout",), tmp_path / "log", 1, tmp_path)
    write = loop.write_checkpoint

    def stopped_in_the_last_step(file, stepper, source, done):
        if done.step == cell.recipe.training.steps:
            os.kill(os.getpid(), number)
        write(file, stepper, source, done)

    monkeypatch.setattr(loop, "write_checkpoint", stopped_in_the_last_step)
    former = signal.getsignal(signal.SIGTERM)
    assert "It was stopped; what it had is saved" in attempt(task)
    assert signal.getsignal(signal.SIGTERM) is former
    run = RunDirectory(task.out)
    assert run.finished
    assert "heldout" not in run.results()
    assert attempt(task) is None
    assert "heldout" in run.results()


def test_a_run_more(folder):
    write_experiment(folder / "toy_grid.toml", "toy.toml", seeds=[5, 6])
    done, tried = run_it(folder / "toy_grid.toml", folder / "out")
    assert tried == ["none/layer_03/seed_6", "selective/layer_03/seed_6"]
    assert len(done.results) == 4


def test_a_failing_run_stops_no_other_and_is_tried_again(tmp_path, capsys):
    """Its store is damaged; once it is whole, the run is made."""
    file = make_experiment(tmp_path, methods={"none": {"harvest": {"store": str(tmp_path / "other")}}})
    shutil.copytree(tmp_path / "store", tmp_path / "other")
    experiment = open_experiment(file, tmp_path / "out")

    class Breaks(HereEngine):
        def run(self, tasks, tick):
            (tmp_path / "other" / "manifest.json").write_text("{")  # behind the back of the check
            yield from super().run(tasks, tick)

    done = run_experiment(experiment, Breaks())
    assert list(done.failed) == [NAMES[0]]
    assert "is not valid JSON" in done.failed[NAMES[0]]
    assert len(done.results) == 1
    assert states(tmp_path / "out") == {NAMES[0]: "failed", NAMES[1]: "finished"}
    assert main(["experiment", str(file), "--out", str(tmp_path / "out"), "--list"]) == 0
    listed = capsys.readouterr().out
    assert "failed" in listed
    assert "finished" in listed
    shutil.copytree(tmp_path / "store", tmp_path / "other", dirs_exist_ok=True)
    done, tried = run_it(file, tmp_path / "out")
    assert (tried, done.failed) == ([NAMES[0]], {})
    assert states(tmp_path / "out") == dict.fromkeys(NAMES, "finished")


def test_the_command_reports_what_failed_at_the_end(folder, monkeypatch, capsys):
    def engine(namespace, experiment):
        class Fails(HereEngine):
            def run(self, tasks, tick):
                for task in tasks:
                    yield run_module_outcome(task.name)

        return Fails()

    from sleave.cli.verbs import experiment as verb
    from sleave.experiment.work import Outcome

    def run_module_outcome(name):
        return Outcome(name, "The moon is full.", 1.0)

    monkeypatch.setattr(verb, "_engine", engine)
    write_experiment(folder / "toy_grid.toml", "toy.toml", seeds=[5, 6])
    out = str(folder / "out")
    assert main(["experiment", str(folder / "toy_grid.toml"), "--out", out]) == 2
    said = capsys.readouterr()
    assert "2 of 4 runs failed. The same command tries them again." in said.err
    log = Path(out) / "logs" / "none" / "layer_03" / "seed_6.log"
    assert f"  none/layer_03/seed_6: The moon is full. See {log}" in said.err
    assert "FVU" in said.out  # the table of the others
    assert (folder / "out" / "report.html").is_file()


def test_all_that_is_in_the_way_is_listed_before_anything_runs(folder):
    write_experiment(folder / "toy_grid.toml", "toy.toml", methods={n: {"optimizer": {"lr": 0.5}} for n in ("none",)})
    (folder / "out" / "selective" / "layer_08" / "seed_5").mkdir(parents=True)
    (folder / "out" / "selective" / "layer_08" / "seed_5" / "thesis.tex").write_text("x")
    write_experiment(folder / "toy_grid.toml", "toy.toml", methods={"none": {"optimizer": {"lr": 0.5}}}, layers=[3, 8])
    with pytest.raises(SleaveError) as error:
        run_it(folder / "toy_grid.toml", folder / "out")
    message = str(error.value)
    assert message.startswith("2 of 4 runs cannot begin or go on.\n")
    assert "`optimizer.lr`: there 0.02, now 0.5" in message
    assert "is not empty and not a run" in message
    assert not (folder / "out" / "none" / "layer_08").exists()


def test_two_at_once_in_one_folder(folder):
    with exclusive(folder / "out"), pytest.raises(SleaveError, match="Another sleave is at work in"):
        run_it(folder / "toy_grid.toml", folder / "out")


def test_a_run_that_is_still_held_is_waited_for(folder, monkeypatch):
    monkeypatch.setattr(run_module, "PATIENCE", 0.3)
    with (
        exclusive(folder / "out" / NAMES[0]),
        pytest.raises(
            SleaveError, match=rf"1 of 2 runs cannot begin or go on.\nAnother sleave is at work in `.*{NAMES[0]}`"
        ),
    ):
        run_it(folder / "toy_grid.toml", folder / "out")


def test_an_output_that_cannot_be_written(folder):
    (folder / "file").write_text("x")
    with pytest.raises(SleaveError, match=r"is not a folder"):
        run_it(folder / "toy_grid.toml", folder / "file" / "out")


def test_an_unknown_suite(folder):
    file = write_experiment(folder / "toy_grid.toml", "toy.toml", suites=["heldoutt"])
    with pytest.raises(SleaveError, match=r"`suite` \(= 'heldoutt'\) must be one of 'heldout'"):
        run_it(file, folder / "out")


def test_a_record_of_another_version_is_found_out_again(folder):
    (folder / "out" / "experiment.json").write_text('{"cells": {"none": 3}}')
    _, tried = run_it(folder / "toy_grid.toml", folder / "out")
    assert tried == []


# Activations


@pytest.fixture
def harvests(monkeypatch) -> list[str]:
    """The stores that were asked for by the experiment itself."""
    asked = []

    class Jobs:
        report = staticmethod(jobs.report)

        @staticmethod
        def harvest(recipe):
            asked.append(recipe.harvest.store)
            return jobs.harvest(recipe)

    monkeypatch.setattr(run_module, "jobs", Jobs)
    return asked


def test_one_harvest_for_all_runs(tmp_path, harvests):
    write_recipe(tmp_path / "recipe.toml", make_material(tmp_path))
    file = write_experiment(tmp_path / "grid.toml", "recipe.toml", layers=[0, 2], seeds=[0])
    done, tried = run_it(file, tmp_path / "out")
    assert harvests == [str(tmp_path / "store")]
    assert len(tried) == len(done.results) == 4
    harvests.clear()
    shutil.rmtree(tmp_path / "store")
    run_it(file, tmp_path / "out")  # nothing is left to do, so nothing is harvested
    assert harvests == []


def test_two_harvests_in_one_store_are_refused(folder, harvests):
    file = write_experiment(folder / "toy_grid.toml", "toy.toml", methods={"none": {"harvest": {"min_tokens": 3}}})
    with pytest.raises(SleaveError) as error:
        run_it(file, folder / "new")
    assert f"Runs {NAMES[0]} and {NAMES[1]} want different activations in the same store" in str(error.value)
    assert "`harvest.min_tokens`: one 3, other 1" in str(error.value)
    assert harvests == []


# How far a run is


def test_the_last_step_of_a_log(tmp_path):
    run = RunDirectory(tmp_path)
    assert last_step(run) == 0
    run.metrics_file.write_text("")
    assert last_step(run) == 0
    lines = [json.dumps({"step": n, "padding": "x" * 300}) + "\n" for n in range(1, 200)]
    run.metrics_file.write_text("".join(lines) + lines[0][:9])
    assert last_step(run) == 199
