"""How far a grid is, with time left."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sleave.base.progress import Advance, progress
from sleave.experiment.grid import Cell
from sleave.experiment.state import Record, last_step
from sleave.experiment.work import Tick
from sleave.jobs.evaluation import families_of, unmeasured
from sleave.training.run import RunDirectory

MEASURING = 0.1  # of a run's steps: what a suite counts as, for it says nothing of how far it is


@contextmanager
def grid_progress(cells: Sequence[Cell], out: Path, suites: Sequence[str], record: Record) -> Iterator[Tick]:
    """A bar over the steps of all runs and their measuring; yields what to call with the names of those that run.

    Args:
        cells: all runs.
        out: the experiment's folder.
        suites: what is measured of each.
        record: where they are, for the counts.
    """
    each = {cell.name: _Far(cell, out, suites) for cell in cells}
    for name in record.named("finished"):
        each[name].done = each[name].total
    total, done = sum(far.total for far in each.values()), sum(far.done for far in each.values())
    with progress("Experiment", total, "steps", done) as advance:
        yield _tick(each, record, advance)


class _Far:
    """How far one run is, in steps."""

    def __init__(self, cell: Cell, out: Path, suites: Sequence[str]) -> None:
        self._run, self._cell, self._suites = RunDirectory(out / cell.name), cell, suites
        self._steps = cell.recipe.training.steps
        self._measuring = max(1, round(MEASURING * self._steps))
        self._all = len(families_of(suites))
        self.total = self._steps + self._all * self._measuring
        self.done = 0
        self.done = self.look()

    def look(self) -> int:
        """Steps by now; the last counts once the run has ended. Never fewer than before: one that was killed goes on
        from an earlier step."""
        steps, measured = min(last_step(self._run), self._steps), 0
        if self._run.finished:
            measured = self._all - len(unmeasured(self._run, self._suites, self._cell.recipe))
        return max(self.done, min(steps + measured * self._measuring, self.total - 1))


def _tick(each: dict[str, _Far], record: Record, advance: Advance) -> Tick:
    seen: set[str] = set()

    def tick(running: Collection[str]) -> None:
        gained = 0
        for name in seen.union(running):
            far = each[name]
            now = far.look() if record.states[name].status == "missing" else far.total
            gained, far.done = gained + now - far.done, now
        seen.clear()
        seen.update(running)
        finished, failed = (len(record.named(status)) for status in ("finished", "failed"))
        note = f"{finished} of {len(each)} runs finished, {len(running)} running" + f", {failed} failed" * bool(failed)
        advance(gained, note)

    return tick
