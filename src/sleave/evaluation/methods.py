"""Runs as methods: several that differ only in their seed are one, and each figure has an interval if it can."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sleave.evaluation.jackknife import interval, quantile_of_t

Results = Mapping[str, Mapping[str, Any]]  # results.json by run
Interval = tuple[float, float]
UNSEEDED = ("ground_truth",)  # parts that train with seeds of their own, whatever the run's is


@dataclass(frozen=True, eq=False)
class Method:
    """One run, or several that differ only in their seed.

    Attributes:
        runs: results.json by run.
    """

    runs: Results

    @property
    def name(self) -> str:
        """The first run, and how many more there are."""
        first, *others = self.runs
        return f"{first} and {len(others)} more seeds" if others else first

    def values(self, path: str) -> list[Any] | None:
        """What each run has at a path of results.json; None if one has nothing there."""
        found = [value_at(results, path) for results in self.runs.values()]
        return None if any(value is None for value in found) else found

    def value(self, path: str) -> Any:
        """The mean over runs, or what all have if that is no number; None if there is nothing."""
        values = self.values(path)
        if values is None or len(values) == 1 or not isinstance(values[0], int | float):
            return values[0] if values else None
        return statistics.fmean(values)

    def without(self, path: str) -> list[float] | None:
        """The mean over runs without each group of documents, if all were measured on the same rows."""
        part, _, inner = path.partition(".")
        found = [results.get(part, {}).get("groups", {}).get(inner) for results in self.runs.values()]
        if any(values is None for values in found) or len(self.fingerprints) > 1:
            return None
        return [statistics.fmean(values) for values in zip(*found, strict=True)]

    @property
    def fingerprints(self) -> frozenset[str]:
        """Of the held-out rows that the runs were measured on."""
        return frozenset(str(value_at(results, "heldout.fingerprint")) for results in self.runs.values())

    def interval(self, path: str) -> Interval | None:
        """95% interval of a figure: over documents, or as its part gives it; of several seeds, if wider, over those."""
        without = self.without(path)
        over_rows = self._given(path) if without is None else interval(self.value(path), without)
        return wider(over_rows, self._over_seeds(path))

    def _given(self, path: str) -> Interval | None:
        """As its part gives it; of several runs that of their mean, as if each had been measured on its own."""
        part, _, inner = path.partition(".")
        given = [results.get(part, {}).get("intervals", {}).get(inner) for results in self.runs.values()]
        if any(ends is None for ends in given) or self.value(path) is None:
            return None
        if len(given) == 1 or part in UNSEEDED:
            return float(given[0][0]), float(given[0][1])
        mean, half = self.value(path), math.hypot(*((high - low) / 2 for low, high in given)) / len(given)
        return mean - half, mean + half

    def _over_seeds(self, path: str) -> Interval | None:
        if (deviation := self.seeds_deviation(path)) is None:
            return None
        runs = len(self.runs)
        mean, half = self.value(path), quantile_of_t(runs - 1) * deviation / math.sqrt(runs)
        return mean - half, mean + half

    def by_seed(self, path: str) -> dict[Any, float]:
        """The figure by seed; empty without numbers, if two runs share a seed, or where a run's does not matter."""
        values = self.values(path) if path.partition(".")[0] not in UNSEEDED else None
        seeds = self.values("training.seed") or []
        if values is None or len(set(seeds)) < len(values) or not all(isinstance(v, int | float) for v in values):
            return {}
        return dict(zip(seeds, map(float, values), strict=True))

    def seeds_deviation(self, path: str) -> float | None:
        """Standard deviation over seeds; None for one run, without numbers, or where a run's seed does not matter."""
        if path.partition(".")[0] in UNSEEDED:
            return None
        values = [float(v) for v in self.values(path) or () if isinstance(v, int | float)]
        return statistics.stdev(values) if len(values) == len(self.runs) > 1 else None


def methods(runs: Results) -> list[Method]:
    """Put together runs whose training says that they differ only in the seed, in the order of their first."""
    together: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, results in runs.items():
        training = results.get("training", {})
        recipe, seed = training.get("recipe"), training.get("seed")
        seeds = [value_at(r, "training.seed") for r in together.get(str(recipe), {}).values()]
        key = name if recipe is None or seed in seeds else str(recipe)  # a run beside its copy is no second seed
        together.setdefault(key, {})[name] = results
    return [Method(group) for group in together.values()]


def value_at(results: Mapping[str, Any], path: str) -> Any:
    """What is at a path such as "heldout.scaled.fvu"; None if nothing is."""
    value: Any = results
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return None
        value = value[key]
    return value


def measured_alike(part: str, beside: Sequence[Method]) -> bool:
    """Whether all runs that have a part were measured with the same settings; of rows, `fingerprints` tell more."""
    each = [results[part].get("settings") for m in beside for results in m.runs.values() if part in results]
    return part == "heldout" or all(settings == each[0] for settings in each)


def wider(*intervals: Interval | None) -> Interval | None:
    """The widest of some intervals, or None."""
    there: Sequence[Interval] = [i for i in intervals if i is not None]
    return max(there, key=lambda i: i[1] - i[0], default=None)
