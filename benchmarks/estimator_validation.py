"""How near estimates of mutual information come to the truth: bias and spread over repeated draws.

Cases whose truth is known (benchmarks/truth.py), N rows of each drawn again and again; sleave's estimators beside two
by nearest neighbours. Writes OUT.txt (what is printed) and OUT.csv (every figure).

    python -m benchmarks.estimator_validation [--rows 512 2048 8192] [--draws 100] [--only atoms ...] [--out OUT]
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

import sleave
from benchmarks.truth import Case, cases, mixed_ksg, sklearn_ksg
from sleave.base.environment import environment
from sleave.base.progress import progress

NATS, SHARE = 0.02, 0.1  # an estimate must be within 0.02 nats or 10% of the truth on average ...
ACTIVE = 40  # ... wherever a feature is active on so many rows
REQUIRED = "atoms"


@dataclass(frozen=True)
class Estimator:
    """What is tried: `estimate` takes R draws as an array (R, N, 2) and gives R numbers."""

    estimate: Callable[[np.ndarray], list[float]]
    share: float = 1.0  # of the draws, for what is slow
    most_active: float = math.inf  # rows on which the rarer feature is active, for what is too slow beyond


@dataclass(frozen=True)
class Cell:
    """What one estimator gives for one case at one N."""

    case: Case
    rows: int
    estimator: str
    draws: int
    mean: float
    sd: float

    @property
    def bias(self) -> float:
        return self.mean - self.case.truth

    @property
    def allowed(self) -> float:
        return max(NATS, SHARE * self.case.truth)

    @property
    def counts(self) -> bool:
        """Whether the requirement speaks of this cell."""
        return math.isfinite(self.case.truth) and round(self.case.density * self.rows, 6) >= ACTIVE

    @property
    def within(self) -> bool:
        return abs(self.bias) <= self.allowed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--only", nargs="+", choices=list(ESTIMATORS), default=list(ESTIMATORS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/estimator_validation"))
    parser.add_argument("--page", type=Path, help="also write a page of it in Markdown (docs/estimators.md)")
    arguments = parser.parse_args()
    # Small problems: on one thread each takes a millisecond, on shared cores threads wait 50 for one another.
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    began = time.perf_counter()
    cells = measure(arguments.rows, arguments.draws, arguments.only)
    machine = environment() | {"seconds": round(time.perf_counter() - began)}
    text = "\n".join([*table(cells, arguments.only), "", *summary(cells, arguments.only), "", *verdict(cells)])
    text += "\n" + json.dumps({"machine": machine, "draws": arguments.draws, "results": _results(cells)}) + "\n"
    print(text, end="")
    arguments.out.with_suffix(".txt").write_text(text, encoding="utf-8")
    arguments.out.with_suffix(".csv").write_text(_csv(cells), encoding="utf-8")
    if arguments.page:
        arguments.page.write_text(page(cells, arguments.only, machine), encoding="utf-8")


def measure(rows: list[int], draws: int, names: list[str]) -> list[Cell]:
    cells = []
    todo = [(case, n) for case in cases() for n in rows]
    with progress("Estimating", sum(n for _, n in todo), "rows") as advance:
        for number, (case, n) in enumerate(todo):
            generator = np.random.default_rng([0, number])
            drawn = np.stack([case.draw(n, generator) for _ in range(draws)])
            for name in names:
                estimator = ESTIMATORS[name]
                if case.density * n <= estimator.most_active:
                    taken = max(2, round(draws * estimator.share))
                    values = np.array(estimator.estimate(drawn[:taken]))
                    cells.append(Cell(case, n, name, taken, float(values.mean()), float(values.std(ddof=1))))
            advance(n, case.name)
    return cells


def table(cells: list[Cell], names: list[str]) -> list[str]:
    """Finite truths with bias and spread; then those without, with means."""
    found = {(id(c.case), c.rows, c.estimator): c for c in cells}
    places = list({(id(c.case), c.rows): c for c in cells}.values())
    head = f"{'case':24s} {'N':>5s} {'dens.':>5s} {'rho':>3s} {'truth':>6s}"
    width = max(14, *(len(n) + 2 for n in names))
    columns = "".join(f"{name:>{width}s}" for name in names)

    def line(place: Cell, show: Callable[[Cell], str]) -> str:
        case = place.case
        cell = [found.get((id(case), place.rows, name)) for name in names]
        truth = case.truth if math.isfinite(case.truth) else case.at_least
        start = f"{case.name:24s} {place.rows:5d} {case.density:5.2f} {case.rho:3.1f} {truth:6.4f}"
        return start + "".join(f"{show(c) if c else '-':>{width}s}" for c in cell)

    def error(c: Cell) -> str:
        return f"{c.bias:+.3f}{'*' if c.counts and not c.within else ' '}{c.sd:.3f}"

    return [
        "Mutual information in nats: mean error, then standard deviation over draws. `dens.` is the share of rows on",
        f"which the rarer feature is active. * off by more than {NATS} nats and {SHARE:.0%} of the truth, though it is",
        f"active on {ACTIVE} rows or more.",
        head + columns,
        *(line(p, error) for p in places if math.isfinite(p.case.truth)),
        "",
        "Continuous duplicates, whose truth is infinite: mean estimate, then standard deviation; under `truth` the",
        "entropy of being active, which an estimate should reach.",
        head + columns,
        *(line(p, lambda c: f"{c.mean:.3f} {c.sd:.3f}") for p in places if math.isinf(p.case.truth)),
    ]


def page(cells: list[Cell], names: list[str], machine: dict[str, Any], rows: int = 2048) -> str:
    """The documentation's page: every known truth at one number of rows, and the verdict over all of them."""
    found = {(id(c.case), c.estimator): c for c in cells if c.rows == rows and math.isfinite(c.case.truth)}
    cases = list({id(c.case): c.case for c in found.values()}.values())
    lines = [
        "# Estimators of mutual information against the truth",
        "",
        "Written by `python -m benchmarks.estimator_validation --page docs/estimators.md`; "
        "benchmarks/estimator_validation.txt has other N too, and benchmarks/truth.py says what the cases are.",
        "",
        f"Mean error in nats ± the standard deviation of one estimate, at N = {rows:,}. Bold: off by more than "
        "0.02 nats and by more than 10% of the truth. `density`: the share of rows on which the rarer one is active.",
        "",
        "rho: of the two Gaussians behind a case. `atoms` has at most 16 bins; `shift` and `none` are its other "
        "baselines; mixed KSG is Gao et al. 2017 (nearest neighbours), sklearn KSG is scikit-learn's "
        "`mutual_info_regression`.",
        "",
        "| case | density | rho | truth | " + " | ".join(names) + " |",
        "|---|---:|---:|---:|" + "---:|" * len(names),
    ]
    for case in cases:
        shown = []
        for name in names:
            c = found.get((id(case), name))
            error = f"{c.bias:+.3f}" if c else "-"
            shown.append(f"**{error}** ± {c.sd:.3f}" if c and not c.within else f"{error} ± {c.sd:.3f}" if c else error)
        lines.append(
            f"| {case.name} | {case.density:.2f} | {case.rho:.1f} | {case.truth:.4f} | " + " | ".join(shown) + " |"
        )
    verdicts = [line for line in verdict(cells) if line]
    lines += ["", "Where `atoms` misses the mark of 0.02 nats or 10%, at any N, and the verdict:", ""]
    lines += [f"- {line}" for line in verdicts]
    return "\n".join([*lines, "", f"{machine['processor']}, {machine['seconds']} s."]) + "\n"


def summary(cells: list[Cell], names: list[str]) -> list[str]:
    lines = [f"{'':20s} {'within':>9s} {'largest error':>15s} {'error where':>12s} {'mean':>8s}"]
    lines.append(f"{'':20s} {'':>9s} {'/ allowed':>15s} {'independent':>12s} {'spread':>8s}")
    for name in names:
        own = [c for c in cells if c.estimator == name and c.counts]
        if own:
            none = [abs(c.bias) for c in own if c.case.truth < 1e-12]
            lines.append(
                f"{name:20s} {sum(c.within for c in own):4d}/{len(own):<4d} {_worst(own):15.2f} "
                f"{max(none, default=math.nan):12.4f} {np.mean([c.sd for c in own]):8.4f}"
            )
    return lines


def verdict(cells: list[Cell]) -> list[str]:
    own = [c for c in cells if c.estimator == REQUIRED and c.counts]
    failed = [c for c in own if not c.within]
    lines = []
    for c in failed:
        at = f"{c.case.name}, N {c.rows}, density {c.case.density:g}, rho {c.case.rho:g}"
        error = f"{c.bias:+.4f} +- {c.sd / math.sqrt(c.draws):.4f}"
        lines.append(f"not met: {at}: truth {c.case.truth:.4f}, mean error {error}, allowed {c.allowed:.4f}")
    rule = f"`{REQUIRED}` within {NATS} nats or {SHARE:.0%} of the truth wherever density * N >= {ACTIVE}"
    where = "in every cell" if not failed else f"in {len(own) - len(failed)} of {len(own)} cells"
    return [*lines, f"Verdict: {rule}: met {where}." if own else f"Verdict: {rule}: not measured."]


def _worst(cells: list[Cell]) -> float:
    return max(abs(c.bias) / c.allowed for c in cells)


def _results(cells: list[Cell]) -> list[dict[str, Any]]:
    results = []
    for name in dict.fromkeys(c.estimator for c in cells):
        own = [c for c in cells if c.estimator == name and c.counts]
        if own:
            within = sum(c.within for c in own)
            worst = round(_worst(own), 3)
            results.append({"what": name, "cells": len(own), "within": within, "largest_error_to_allowed": worst})
    return results


def _csv(cells: list[Cell]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["case", "N", "density", "rho", "truth", "estimator", "draws", "mean", "bias", "sd", "allowed", "required"]
    writer.writerow(head)
    for c in cells:
        place = [c.case.name, c.rows, c.case.density, c.case.rho, f"{c.case.truth:.6f}", c.estimator, c.draws]
        figures = [f"{v:.6f}" for v in (c.mean, c.bias, c.sd, c.allowed)]
        writer.writerow([*place, *figures, int(c.counts)])
    return text.getvalue()


def _sleave(at_once: int = 10, **options: Any) -> Callable[[np.ndarray], list[float]]:
    """The pairs (2r, 2r + 1) of a call: a few at once, since the pairs between draws cost time and are not wanted."""

    def estimate(draws: np.ndarray) -> list[float]:
        found: list[float] = []
        for first in range(0, len(draws), at_once):
            columns = np.concatenate(list(draws[first : first + at_once]), axis=1)
            scores = sleave.mutual_information(torch.from_numpy(columns).float(), **options).to_dense()
            even = torch.arange(0, columns.shape[1], 2)
            found += scores[even, even + 1].tolist()
        return found

    return estimate


def _each(of: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray], list[float]]:
    return lambda draws: [of(x, y) for x, y in draws.transpose(0, 2, 1)]


ESTIMATORS = {
    "atoms": Estimator(_sleave()),
    "atoms, 4 bins": Estimator(_sleave(bins=4)),
    "atoms, shift": Estimator(_sleave(baseline="shift")),
    "atoms, none": Estimator(_sleave(baseline="none")),
    "activity": Estimator(_sleave(estimator="activity")),
    "kde absolute": Estimator(_sleave(1, estimator="kde", bandwidth_scale="absolute", baseline="none"), 0.06, 2048),
    "kde std": Estimator(_sleave(1, estimator="kde", bandwidth_scale="std", baseline="none"), 0.06, 2048),
    "mixed KSG": Estimator(_each(mixed_ksg), 0.4),
    "sklearn KSG": Estimator(_each(sklearn_ksg), 0.2),
}

if __name__ == "__main__":
    main()
