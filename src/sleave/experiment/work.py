"""What a worker does, wherever it runs."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sleave.base.errors import SleaveError

Tick = Callable[[Collection[str]], None]


@dataclass(frozen=True)
class Task:
    """One run, to be trained and measured; plain values, which travel to another process or machine.

    Attributes:
        name: of its cell.
        recipe: its settings, as `Recipe.to_dict` gives them.
        out: its run directory.
        suites: what is measured.
        log: the file that everything it prints goes to.
        threads: how many cores it may use.
        folder: the one that paths are relative to, those in the recipe too.
    """

    name: str
    recipe: Mapping[str, Any]
    out: Path
    suites: tuple[str, ...]
    log: Path
    threads: int
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Attributes:
        name: of the task.
        error: why it failed, in a sentence or two; None if it is finished.
        seconds: how long it took.
        peak_memory: the most of its machine's memory that its process held, in bytes; 0 if that is not known.
    """

    name: str
    error: str | None
    seconds: float
    peak_memory: int = 0


class Engine(ABC):
    """Where tasks run."""

    @abstractmethod
    def threads(self, runs: int) -> int:
        """How many cores each of so many runs gets.

        That must not depend on how many of them are left: sums over other numbers of threads round differently.
        """

    @abstractmethod
    def run(self, tasks: Sequence[Task], tick: Tick) -> Generator[Outcome, None, None]:
        """Run tasks, as many at a time as there is room for; gives what came of each as soon as it ends.

        A task that fails, or whose process is killed, stops no other. When the caller is stopped, or closes the
        generator, every task that runs saves what it has and ends.

        Args:
            tasks: what to do.
            tick: called about once a second with the names of the tasks that run.
        """


def check_at_least_one(given: Mapping[str, int | None]) -> None:
    """Refuse numbers of an engine that cannot be.

    Raises:
        SleaveError: one is below 1.
    """
    for name, number in given.items():
        if number is not None and number < 1:
            raise SleaveError(f"`{name}` (= {number}) must be at least 1.")


def work(task: Task) -> Outcome:
    """Train and measure a run, or go on with it.

    It takes over the process, which should end afterwards: the folder, the number of threads, and where what is printed
    goes, by compiled code too: to the task's log.
    """
    began = time.perf_counter()
    _print_to(task.log)
    os.chdir(task.folder)

    import torch

    from sleave.base.environment import peak_resident

    torch.set_num_threads(task.threads)
    error = attempt(task)
    return Outcome(task.name, error, time.perf_counter() - began, peak_resident())


def attempt(task: Task) -> str | None:
    """Train and measure a run, or go on with it; returns why it failed, if it did."""
    from sleave import jobs
    from sleave.recipe import Recipe
    from sleave.training.interruption import Interrupted, raised_on_sigterm

    stopped = "It was stopped; what it had is saved, and the same command goes on."
    try:
        with raised_on_sigterm(stopped), _asked_to_stop() as asked:
            recipe = Recipe.model_validate(task.recipe)
            (run,) = jobs.train(recipe, task.out)
            if asked():  # in the last step, after which training ends as it always does
                return stopped
            jobs.evaluate(run, suite=task.suites, settings=recipe.evaluation.model_dump(mode="json"))
    except SleaveError as error:
        return str(error)
    except (Interrupted, KeyboardInterrupt):
        return stopped
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    return None


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Gives what tells whether SIGINT or SIGTERM came within the block, whoever handled it then."""
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    came = set[int]()

    def asked() -> bool:
        with suppress(BlockingIOError):
            came.update(os.read(reading, 4096))
        return not came.isdisjoint((signal.SIGINT, signal.SIGTERM))

    former = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield asked
    finally:
        signal.set_wakeup_fd(former)
        os.close(reading)
        os.close(writing)


def _print_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for number in (1, 2):
        os.dup2(handle, number)
    os.close(handle)
