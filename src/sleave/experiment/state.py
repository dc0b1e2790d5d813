"""How far the runs of an experiment are, and what is kept of that in experiment.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from sleave.base.files import read_json, write_json
from sleave.experiment.grid import Cell
from sleave.experiment.work import Outcome
from sleave.jobs.evaluation import unmeasured
from sleave.training.run import RunDirectory

FILE = "experiment.json"
SCHEMA = 1


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes:
        status: `finished` (trained, and all suites measured), `failed` when last tried, or `missing`.
        error: why it failed.
        seconds: how long the last try took; None if there was none, or if it was broken off.
    """

    status: Literal["finished", "failed", "missing"] = "missing"
    error: str | None = None
    seconds: float | None = None


class Record:
    """experiment.json: the state of every run, written whenever one changes.

    Attributes:
        states: by name of the cell.
    """

    def __init__(self, out: Path, title: str, cells: Sequence[Cell], suites: Sequence[str]) -> None:
        """Find out how far the runs are: by their own directories; the file tells only why one failed, and times.

        Args:
            out: the experiment's folder.
            title: what it is about.
            cells: its runs.
            suites: what is measured of each.

        Raises:
            SleaveError: there is no such suite, or a results.json is damaged.
        """
        self._out, self._title = out, title
        self._file = out / FILE
        self._varied = {cell.name: dict(cell.varied) for cell in cells}
        before = _former(self._file)
        self.states = {cell.name: _state(cell, out, suites, before.get(cell.name, State())) for cell in cells}

    def begin(self, names: Sequence[str]) -> None:
        """These are to be tried, be it again."""
        self.states |= dict.fromkeys(names, State())
        self.write()

    def add(self, outcome: Outcome) -> None:
        """Take note of what came of a run."""
        status: Literal["finished", "failed"] = "failed" if outcome.error else "finished"
        self.states[outcome.name] = State(status, outcome.error, outcome.seconds)
        self.write()

    def named(self, status: str) -> list[str]:
        """The names of the runs of that status."""
        return [name for name, state in self.states.items() if state.status == status]

    def write(self) -> None:
        """Write the file.

        Raises:
            SleaveError: it cannot be written.
        """
        states = {name: asdict(state) | {"settings": self._varied[name]} for name, state in self.states.items()}
        write_json(self._file, {"schema": SCHEMA, "title": self._title, "cells": states})


def _former(file: Path) -> Mapping[str, State]:
    """What the file says; nothing if it is not there or of another version, since it can be found out again."""
    if not file.is_file():
        return {}
    try:
        return TypeAdapter(dict[str, State]).validate_python(read_json(file)["cells"])
    except (ValueError, KeyError, TypeError, ValidationError):
        return {}


def _state(cell: Cell, out: Path, suites: Sequence[str], before: State) -> State:
    run = RunDirectory(out / cell.name)
    missing = unmeasured(run, suites, cell.recipe)
    if run.finished and not missing:
        return State("finished", None, before.seconds)
    return before if before.status == "failed" else State()


def last_step(run: RunDirectory) -> int:
    """The last step that a run has logged; only the end of metrics.jsonl is read."""
    try:
        with run.metrics_file.open("rb") as file:
            file.seek(max(0, run.metrics_file.stat().st_size - 8192))
            lines = file.read().split(b"\n")[:-1]  # behind the last newline is what is being written
    except FileNotFoundError:
        return 0
    return int(json.loads(lines[-1])["step"]) if lines else 0
