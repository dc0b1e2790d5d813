"""A grid of runs from its file to its table and page."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sleave import jobs
from sleave.base.errors import SleaveError
from sleave.base.files import exclusive
from sleave.base.progress import say
from sleave.base.settings import differences
from sleave.evaluation.compare import Comparison, compare
from sleave.evaluation.table import write_table
from sleave.experiment.grid import Cell, cells
from sleave.experiment.progress import grid_progress
from sleave.experiment.settings import load_experiment
from sleave.experiment.state import Record
from sleave.experiment.work import Engine, Task
from sleave.language.settings import ModelShape
from sleave.recipe import Recipe
from sleave.training.run import RunDirectory

PATIENCE = 60.0  # seconds for the processes of an experiment that was killed to save what they have


@dataclass(frozen=True)
class Experiment:
    """An experiment with its runs.

    Attributes:
        title: what it is about.
        out: its folder.
        cells: its runs.
        suites: what is measured of each.
        shape: how large the language model is, if its file says so.
    """

    title: str
    out: Path
    cells: tuple[Cell, ...]
    suites: tuple[str, ...]
    shape: ModelShape | None = None

    def record(self) -> Record:
        """How far its runs are."""
        return Record(self.out, self.title, self.cells, self.suites)

    def run_of(self, name: str) -> RunDirectory:
        """The directory of a run."""
        return RunDirectory(self.out / name)

    def log_of(self, name: str) -> Path:
        """What a run printed."""
        return self.out / "logs" / f"{name}.log"


@dataclass(frozen=True)
class Finished:
    """What came of an experiment.

    Attributes:
        results: results.json of every finished run, by its path.
        compared: each method beside its baseline.
        failed: why runs failed, by name.
        written: the files about all runs: tables and page.
    """

    results: Mapping[str, Mapping[str, Any]]
    compared: tuple[Comparison, ...]
    failed: Mapping[str, str]
    written: tuple[Path, ...]


def open_experiment(file: str | Path, out: str | Path | None = None) -> Experiment:
    """Read an experiment's file and resolve its runs; nothing is written.

    Args:
        file: the TOML file.
        out: its folder; runs/NAME by default, after the file.

    Raises:
        SleaveError: see `load_experiment` and `cells`.
    """
    settings = load_experiment(file)
    found = cells(settings, Path(file).parent)
    place = Path(out or Path("runs") / Path(file).stem)
    return Experiment(settings.title, place, found, settings.suites, settings.model_shape)


def run_experiment(experiment: Experiment, engine: Engine) -> Finished:
    """Make all runs that are not finished, measure them, and put all finished ones side by side.

    Writes experiment.json, table.md, table.csv and report.html into the experiment's folder, beside the runs and what
    each printed (logs/). Runs that failed are tried again, unfinished ones go on.

    Raises:
        SleaveError: a folder holds a run with other settings, two runs want different activations in one store, another
            process is at work there, or the folder cannot be written: all before anything runs.
        Interrupted: a signal asked to stop; everything is saved.
    """
    out = experiment.out
    record = experiment.record()
    todo = [cell for cell in experiment.cells if record.states[cell.name].status != "finished"]
    stores = _stores(todo)
    with exclusive(out):
        _check_runs(experiment)
        record.begin([cell.name for cell in todo])
        if todo:
            threads = engine.threads(len(experiment.cells))
            for recipe in stores:
                jobs.harvest(recipe)
            tasks = [_task(experiment, cell, threads) for cell in todo]
            with (
                grid_progress(experiment.cells, out, experiment.suites, record) as tick,
                closing(engine.run(tasks, tick)) as outcomes,
            ):
                for outcome in outcomes:
                    record.add(outcome)
                tick(())
        failed = {name: str(record.states[name].error) for name in record.named("failed")}
        return _side_by_side(experiment, record.named("finished"), failed)


def _task(experiment: Experiment, cell: Cell, threads: int) -> Task:
    return Task(
        name=cell.name,
        recipe=cell.recipe.to_dict(),
        out=experiment.run_of(cell.name).path,
        suites=experiment.suites,
        log=experiment.log_of(cell.name).absolute(),
        threads=threads,
        folder=Path.cwd(),
    )


def _side_by_side(experiment: Experiment, names: Sequence[str], failed: Mapping[str, str]) -> Finished:
    runs = [experiment.run_of(name) for name in names]
    results = {str(run.path): run.results() for run in runs}
    if not runs:
        return Finished(results, (), failed, ())
    compared = compare(results) if len(results) > 1 else ()
    tables = [experiment.out / "table.md", experiment.out / "table.csv"]
    for table in tables:
        write_table(table, results, compared)
    page = jobs.report([run.path for run in runs], experiment.out / "report.html")
    return Finished(results, compared, failed, (*tables, page))


def _check_runs(experiment: Experiment) -> None:
    """Find everything that is in the way of a run before the first begins.

    Raises:
        SleaveError: lists it.
    """
    wrong = []
    deadline = time.monotonic() + PATIENCE
    for cell in experiment.cells:
        run = experiment.run_of(cell.name)
        try:
            run.check(cell.recipe.to_dict())
            if run.path.is_dir():
                _wait_for(run, deadline)
        except SleaveError as error:
            wrong.append(str(error))
    if wrong:
        raise SleaveError(f"{len(wrong)} of {len(experiment.cells)} runs cannot begin or go on.\n" + "\n".join(wrong))


def _wait_for(run: RunDirectory, deadline: float) -> None:
    """Let a process that an earlier, killed experiment left behind save what it has."""
    waited = False
    while True:
        try:
            with exclusive(run.path):
                return
        except SleaveError:
            if time.monotonic() > deadline:
                raise
        if not waited:
            say(f"Waiting for another process to be done with {run.path}")
        waited = True
        time.sleep(0.2)


def _stores(todo: Sequence[Cell]) -> list[Recipe]:
    """A recipe for each store that runs read.

    Raises:
        SleaveError: two runs want different activations in the same store.
    """
    stores: dict[str, Cell] = {}
    for cell in todo:
        if (store := cell.recipe.harvest.store) is not None:
            first = stores.setdefault(os.path.abspath(store), cell)
            if lines := differences(_harvest_of(first.recipe), _harvest_of(cell.recipe), words=("one", "other")):
                raise SleaveError(
                    f"Runs {first.name} and {cell.name} want different activations in the same store, `{store}`:\n"
                    + "\n".join(lines)
                    + "\nGive each method that reads others a `harvest.store` of its own."
                )
    return [cell.recipe for cell in stores.values()]


def _harvest_of(recipe: Recipe) -> dict[str, Any]:
    """What decides the activations in a store."""
    return recipe.model_dump(
        mode="json",
        include={"model": True, "corpus": True, "harvest": True},
        exclude={"model": {"device", "compile"}, "harvest": {"store", "batch_tokens"}},
    )
