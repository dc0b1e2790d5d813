"""What a worker does, wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


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
    """

    name: str
    recipe: Mapping[str, Any]
    out: Path
    suites: Sequence[str]
    log: Path
    threads: int


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Attributes:
        name: of the task.
        error: why it failed, in a sentence or two; None if it is finished.
        seconds: how long it took.
    """

    name: str
    error: str | None
    seconds: float


class Engine(Protocol):
    """Where tasks run."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """Run tasks, as many at a time as there is room for; gives what came of each as soon as it ends.

        A task that fails, or whose process is killed, stops no other. When the caller is stopped, or stops asking,
        every task that runs saves what it has and ends.
        """
        ...
