"""Whether there is memory for one more run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from sleave.base.environment import free_memory
from sleave.experiment.work import Outcome, Task
from sleave.recipe import Recipe

Estimate = Callable[[Recipe], int]


class Room:
    """How much memory runs need: what is estimated of each, and no less than what one like it was seen to take."""

    def __init__(self, estimate: Estimate) -> None:
        """
        Args:
            estimate: the most memory that a recipe's run will hold, in bytes.
        """
        self._estimate = estimate
        self._taken: dict[tuple[str, ...], int] = {}

    def need(self, task: Task) -> int:
        """The most memory that a task is expected to hold, in bytes."""
        recipe = Recipe.model_validate(task.recipe)
        return max(self._estimate(recipe), self._taken.get(_kind(recipe), 0))

    def learn(self, task: Task, outcome: Outcome) -> None:
        """Take note of what a task took."""
        kind = _kind(Recipe.model_validate(task.recipe))
        self._taken[kind] = max(outcome.peak_memory, self._taken.get(kind, 0))

    def has_room_for(self, task: Task, running: Mapping[int, Task]) -> bool:
        """Whether a task fits beside those that run (by process id), once they have taken all that they will."""
        still = sum(max(0, self.need(other) - _held(process)) for process, other in running.items())
        return self.need(task) <= free_memory() - still


def _kind(recipe: Recipe) -> tuple[str, ...]:
    """Runs of a kind take like amounts."""
    return recipe.autoencoder.kind, str(recipe.autoencoder.d_sae), recipe.constraint.kind


def _held(process: int) -> int:
    """What a process holds now, in bytes; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
