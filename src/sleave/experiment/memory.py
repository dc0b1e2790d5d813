"""Whether there is memory for one more run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sleave.base.environment import free_memory, process_memory
from sleave.experiment.needs import Memory
from sleave.experiment.work import Outcome, Task
from sleave.recipe import Recipe

Estimate = Callable[[Recipe], Memory]


class Room:
    """How much memory runs need: what is estimated of each, and no less than what one like it was seen to take.

    Everywhere without rows mapped from the store: the system takes those back, so they count as free.
    """

    def __init__(self, estimate: Estimate) -> None:
        """
        Args:
            estimate: the most memory that a recipe's run will hold.
        """
        self._estimate = estimate
        self._known: dict[str, tuple[Kind, Memory]] = {}
        self._taken: dict[Kind, int] = {}

    def need(self, task: Task) -> int:
        """The most memory that a task is expected to hold, in bytes."""
        kind, estimated = self._of(task)
        return max(estimated.own, self._taken.get(kind, 0))

    def learn(self, task: Task, outcome: Outcome) -> None:
        """Take note of what a task took: of its peak, what cannot have been mapped rows."""
        kind, estimated = self._of(task)
        self._taken[kind] = max(outcome.peak_memory - estimated.mapped, self._taken.get(kind, 0))

    def has_room_for(self, task: Task, running: Mapping[int, Task]) -> bool:
        """Whether a task fits beside those that run (by process id), once they have taken all that they will."""
        still = sum(max(0, self.need(other) - _held(process)) for process, other in running.items())
        return self.need(task) <= free_memory() - still

    def _of(self, task: Task) -> tuple[Kind, Memory]:
        """Found out once for each task, since it reads the recipe and the store's manifest."""
        if task.name not in self._known:
            recipe = Recipe.model_validate(task.recipe)
            self._known[task.name] = _kind(recipe), self._estimate(recipe)
        return self._known[task.name]


Kind = tuple[str, ...]


def _kind(recipe: Recipe) -> Kind:
    """Runs of a kind take like amounts."""
    return recipe.autoencoder.kind, str(recipe.autoencoder.d_sae), recipe.constraint.kind


def _held(process: int) -> int:
    """What a process holds now, in bytes, without what it maps from files; 0 where the system does not tell."""
    return process_memory("RssAnon", process) or 0
