"""What a constraint bought and what it cost: each method beside a baseline of the same sparsity.

A constraint can lower every correlation by making codes sparser, and a denser autoencoder reconstructs better whatever
its constraint. So the baseline's figures are taken at the method's own L0 (or FVU): where there are baselines of
several sparsities, each figure is interpolated between the two that lie around it, linearly in log L0; never beyond the
last. Both, and so their difference, are also known without each group of documents, if they were measured on the same
rows: what makes some documents hard for both does not widen the interval of the difference.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from sleave.base.errors import SleaveError, check_one_of
from sleave.evaluation.figures import FIGURES, FVU, L0, Figure
from sleave.evaluation.jackknife import interval, quantile_of_t
from sleave.evaluation.methods import Interval, Method, Results, measured_alike, methods, value_at, wider

Verdict = Literal["better", "worse", "within noise"]
Status = Literal["ok", "no_baseline", "outside_frontier", "not_measured"]
MATCHES: dict[str, tuple[str, str]] = {"l0": ("L0", L0), "fvu": ("FVU", FVU)}
NO_BASELINE = (
    "no run without a constraint is beside it that has its architecture, widths and activations, was measured on the "
    "same rows and has {} above 0"
)
LIKE = {"l0": 0.03, "fvu": 0.005}  # how far two may be apart and still count as alike
SYNTHETIC = "ground_truth"  # its autoencoders are trained apart, whatever the L0 of the run
SAME = ("training.architecture", "training.d_in", "training.d_sae", "training.activations")


@dataclass(frozen=True)
class Difference:
    """One figure of a method, less that of the baseline.

    Attributes:
        figure: which.
        value, baseline: the two.
        interval: 95% interval of the difference; None if none is known.
        verdict: `within noise` if the interval holds 0; None without an interval, if no way is better, or if the two
            are not at like L0 (or FVU).
    """

    figure: Figure
    value: float
    baseline: float
    interval: Interval | None
    verdict: Verdict | None

    @property
    def difference(self) -> float:
        """The method's less the baseline's."""
        return self.value - self.baseline


@dataclass(frozen=True)
class Comparison:
    """A method beside its baseline.

    Attributes:
        method: name of the method.
        runs: the runs that it is.
        baseline: names of the baselines that its figures are held against, one or the two that it lies between.
        status: "ok", or why there are no differences.
        notes: what a reader must know, in sentences.
        differences: by figure, in the order of `FIGURES`.
    """

    method: str
    runs: tuple[str, ...]
    baseline: tuple[str, ...]
    status: Status
    notes: tuple[str, ...]
    differences: tuple[Difference, ...]


def compare(runs: Results, baseline: Sequence[str] = (), match: str = "l0") -> tuple[Comparison, ...]:
    """Hold every method against its baseline.

    Args:
        runs: results.json by run.
        baseline: names of runs; by default those with the constraint `none` of the method's architecture, widths and
            activations, measured on the same rows.
        match: at the same what: `l0` or `fvu`.

    Raises:
        SleaveError: there is no such run, or no such match.
    """
    check_one_of("match", match, tuple(MATCHES))
    if missing := [name for name in baseline if name not in runs]:
        raise SleaveError(f"The baseline {', '.join(missing)} is not among the runs: {', '.join(runs)}.")
    chosen = set(baseline) or {n for n, r in runs.items() if value_at(r, "training.constraint") == "none"}
    points = methods({name: runs[name] for name in runs if name in chosen})
    others = methods({name: runs[name] for name in runs if name not in chosen})
    return tuple(_compared(m, [p for p in points if baseline or _alike(m, p)], match) for m in others)


def _alike(method: Method, point: Method) -> bool:
    return all(method.value(path) == point.value(path) for path in SAME) and _on_the_same_rows([method, point])


@dataclass(frozen=True, eq=False)
class _Reference:
    """A baseline between two others: low + weight (high - low); and the weight without each group of documents."""

    low: Method
    high: Method
    weight: float = 0.0
    weights: Sequence[float] | None = None

    def value(self, path: str) -> float | None:
        low, high = self.low.value(path), self.high.value(path)
        return None if low is None or high is None else low + self.weight * (high - low)

    def without(self, path: str, groups: int) -> list[float] | None:
        low, high, weights = self.low.without(path), self.high.without(path), self.weights
        if not self.interpolated:
            weights = [0.0] * groups
        if low is None or high is None or weights is None or not len(low) == len(high) == len(weights) == groups:
            return None
        return [a + w * (b - a) for a, b, w in zip(low, high, weights, strict=True)]

    @property
    def interpolated(self) -> bool:
        """Whether it lies between two."""
        return self.low is not self.high

    @property
    def parts(self) -> list[tuple[Method, float]]:
        """The baselines, and how much each counts."""
        return [(self.low, 1 - self.weight), (self.high, self.weight)] if self.interpolated else [(self.low, 1.0)]


def _compared(method: Method, points: Sequence[Method], match: str) -> Comparison:
    name, path = MATCHES[match]
    if (own := method.value(path)) is None:
        return Comparison(method.name, tuple(method.runs), (), "not_measured", (f"its {name} is not known",), ())
    points = sorted((p for p in points if (p.value(path) or 0) > 0), key=lambda p: float(p.value(path)))
    if not points:
        return Comparison(method.name, tuple(method.runs), (), "no_baseline", (NO_BASELINE.format(name),), ())
    at = [float(p.value(path)) for p in points]
    like = LIKE[match]
    if len(points) > 1 and not at[0] * (1 - like) <= own <= at[-1] * (1 + like):
        why = (
            f"{name} {own:.4g} is outside that of the baselines, {at[0]:.4g} to {at[-1]:.4g}; train either at another "
            "sparsity"
        )
        return Comparison(
            method.name, tuple(method.runs), tuple(p.name for p in points), "outside_frontier", (why,), ()
        )
    reference = _reference(method, points, path)
    beside = [method, *(p for p, _ in reference.parts)]
    # What is matched is equal by construction, or nearly; and so is all that says the same in other units.
    matched = {"l0": (L0,) if reference.interpolated else (), "fvu": (FVU, "heldout.scaled.mse")}[match]
    figures = [f for section, part in FIGURES.items() for f in part if section != "run" and f.path not in matched]
    found = [d for figure in figures if (d := _difference(method, reference, figure)) is not None]
    notes = []
    if unlike := [p for p in dict.fromkeys(d.figure.part for d in found) if not measured_alike(p, beside)]:
        notes.append(f"measured with other settings than its baseline, so not compared: {', '.join(unlike)}")
        found = [d for d in found if d.figure.part not in unlike]
    if reference.interpolated:
        notes.append(f"at {name} {own:.4g}")
    elif abs(own / (there := float(reference.low.value(path))) - 1) > like:
        notes.append(f"not at like {name}, so no verdicts: {own:.4g} against {there:.4g}")
        found = [d if d.figure.part == SYNTHETIC else replace(d, verdict=None) for d in found]
    if not _on_the_same_rows(beside):
        notes.append("measured on other rows than its baseline: intervals are wider than they need be")
    names = tuple(p.name for p, _ in reference.parts)
    return Comparison(method.name, tuple(method.runs), names, "ok", tuple(notes), tuple(found))


def _on_the_same_rows(beside: Sequence[Method]) -> bool:
    return len(frozenset[str]().union(*(m.fingerprints for m in beside))) == 1


def _reference(method: Method, points: Sequence[Method], path: str) -> _Reference:
    """The baseline at the method's own place; the nearest end of the frontier, if it lies just beyond."""
    own = method.value(path)
    for low, high in pairwise(points):
        a, b = low.value(path), high.value(path)
        if a <= own <= b and a < b:
            return _Reference(low, high, _weight(own, a, b), _weights([m.without(path) for m in (method, low, high)]))
    nearest = min(points, key=lambda p: abs(float(p.value(path)) - own))
    return _Reference(nearest, nearest)


def _weights(each: Sequence[Sequence[float] | None]) -> list[float] | None:
    """Without each group; None where that is not known, or where a group decides which baseline is the sparser."""
    known = [values for values in each if values is not None and len(values) == len(each[0] or ())]
    together = list(zip(*known, strict=True))
    if len(known) < len(each) or any(own <= 0 or not 0 < low < high for own, low, high in together):
        return None
    return [_weight(*three) for three in together]


def _weight(own: float, low: float, high: float) -> float:
    return math.log(own / low) / math.log(high / low)


def _difference(method: Method, reference: _Reference, figure: Figure) -> Difference | None:
    value = method.value(figure.path)
    if not isinstance(value, int | float) or (baseline := reference.value(figure.path)) is None:
        return None
    difference = value - baseline
    if (gain := _gain(method, figure)) is not None:
        return Difference(figure, value, value - gain[0], gain[1], _verdict(figure, gain[0], gain[1]))
    found = wider(
        _over_documents(method, reference, figure.path, difference),
        _over_seeds(method, reference, figure.path, difference),
    )
    return Difference(figure, value, baseline, found, _verdict(figure, difference, found))


def _gain(method: Method, figure: Figure) -> tuple[float, Interval] | None:
    """What the family says itself: without the constraint in the very same synthetic worlds, which hang on no seed."""
    part, _, name = figure.path.partition(".")
    if part != SYNTHETIC:
        return None
    results = next(iter(method.runs.values()))
    gain, ends = value_at(results, f"{part}.gain.{name}"), value_at(results, f"{part}.gain_intervals.{name}")
    return None if gain is None or ends is None else (gain, (ends[0], ends[1]))


def _over_documents(method: Method, reference: _Reference, path: str, difference: float) -> Interval | None:
    """Paired, if both were measured on the same rows; otherwise from the intervals of both, as if independent."""
    same = _on_the_same_rows([method, *(p for p, _ in reference.parts)])
    own = method.without(path)
    theirs = reference.without(path, len(own)) if own is not None and same else None
    if own is not None and theirs is not None:
        return interval(difference, [a - b for a, b in zip(own, theirs, strict=True)])
    widths = []
    for part, weight in [(method, 1.0), *reference.parts]:
        if (known := part.interval(path)) is None:
            return None
        widths.append(weight * (known[1] - known[0]) / 2)
    half = math.hypot(*widths)
    return difference - half, difference + half


def _over_seeds(method: Method, reference: _Reference, path: str, difference: float) -> Interval | None:
    """Of the differences between runs of one seed, if both have the same seeds: they share start and batches.

    Otherwise of the seeds of either. One run says nothing of its own spread: it is taken to be the largest of the
    others'.
    """
    parts = [(method, 1.0), *reference.parts]
    own, *theirs = [part.by_seed(path) for part, _ in parts]
    if len(own) > 1 and all(each.keys() == own.keys() for each in theirs):
        beside = [sum(w * each[seed] for each, (_, w) in zip(theirs, parts[1:], strict=True)) for seed in own]
        paired = [a - b for a, b in zip(own.values(), beside, strict=True)]
        half = quantile_of_t(len(paired) - 1) * statistics.stdev(paired) / math.sqrt(len(paired))
        return difference - half, difference + half
    known = {part: d for part, _ in parts if (d := part.seeds_deviation(path)) is not None}
    if not known:
        return None
    largest = max(known.values())
    errors = [weight * known.get(part, largest) / math.sqrt(len(part.runs)) for part, weight in parts]
    half = quantile_of_t(min(len(part.runs) for part in known) - 1) * math.hypot(*errors)
    return difference - half, difference + half


def _verdict(figure: Figure, difference: float, found: Interval | None) -> Verdict | None:
    if found is None or figure.better == "neither":
        return None
    if found[0] <= 0 <= found[1]:
        return "within noise"
    return "better" if (difference < 0) == (figure.better == "lower") else "worse"
