"""Experiments small enough to run whole in a test, and an engine without processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Collection, Generator, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from toy_run import make_recipe, run_settings

from sleave.experiment.work import Engine, Outcome, Task, Tick, attempt
from sleave.recipe import merged

METHODS: dict[str, Any] = {"none": {"constraint": {"kind": "none"}}, "selective": {}}
# Ray would give way to whatever else runs on the machine.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "RAY_worker_niceness": "0"}


def make_experiment(folder: Path, training: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The file of two runs over a toy store that is there already."""
    recipe = make_recipe(folder, training=training or {})
    return write_experiment(folder / "toy_grid.toml", recipe.name, **changes)


def write_experiment(path: Path, recipe: str, **changes: Any) -> Path:
    """The same over any recipe."""
    values: dict[str, Any] = {"title": "A toy", "recipe": recipe, "seeds": [5], "layers": [3], "methods": METHODS}
    path.write_text(tomli_w.dumps(merged(values, changes)), encoding="utf-8")
    return path


def make_task(folder: Path, name: str, threads: int = 1, **changes: Any) -> Task:
    """A task for workers that only pretend: its model and text do not exist."""
    recipe = run_settings(**changes).model_dump(mode="json", exclude_none=True)
    recipe |= {"model": {"name": "toy", "layers": [3]}, "corpus": [{"kind": "files", "paths": ["none.txt"]}]}
    recipe["harvest"] = {"store": "/nowhere"}
    return Task(name, recipe, folder / name, ("heldout",), folder / "logs" / f"{name}.log", threads, folder)


class HereEngine(Engine):
    """Runs tasks in this process, one after the other, and remembers which."""

    def __init__(self) -> None:
        self.tried: list[str] = []

    def threads(self, runs: int) -> int:
        return 1

    def run(self, tasks: Sequence[Task], tick: Tick) -> Generator[Outcome, None, None]:
        for task in tasks:
            self.tried.append(task.name)
            tick([task.name])
            yield Outcome(task.name, attempt(task), 1.0)


def ignore(running: Collection[str]) -> None:
    """A tick that shows nothing."""


def start(file: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """`sleave experiment` in a process of its own."""
    command = [sys.executable, "-m", "sleave", "experiment", str(file), "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """What it said on standard error."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == status, out + err
    return err
