"""What a constraint costs: training steps with and without it, interleaved in one process.

    THP_MEM_ALLOC_ENABLE=1 python -m benchmarks.constraint_cost [--rounds 9] [--out benchmarks/constraint_cost.txt]

A constraint that chooses its pairs every R steps costs a step with a choice once and R - 1 steps without. Each is
trained twice, choosing in every step and never after the first, and the cost is made of both: (R - 1) / R of the one
and 1 / R of the other. (A window of earlier batches is pooled in each choice; that batches are kept for it, in the
last steps before one, is left out: about a millisecond each.) Ratios are taken round by round, to a
step without constraint in the same round. All constraints take turns at one autoencoder: copies of it differed by up
to a tenth, by where their weights lie in memory, which is more than most constraints take. Steps still differ from
one to the next; so the time within the penalty is given too (choice, value, and the gradient, which is computed with
the value), and its share of the median step without it: it leaves out only what a penalty costs the rest of the step,
such as caches. The floor is that of `benchmarks.training_step`. Rows are those of that benchmark; the autoencoder
begins from data, at a learning rate that leaves how many features fire as it is.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.libraries import L1, Case, fast_precision, run_settings
from benchmarks.training_step import batches, case, floor
from sleave.base.environment import environment
from sleave.base.files import write_text
from sleave.base.progress import progress
from sleave.penalties.guided import MIOrtho
from sleave.penalties.informed import InformedOrthogonality
from sleave.penalties.orthogonality import FullOrthogonality, SelectiveOrthogonality
from sleave.penalties.penalty import Penalty
from sleave.training.loop import begin
from sleave.training.step import Stepper

SHAPES = {
    "relu": ((4096, 640, 2560), (4096, 2304, 2304)),
    "topk": ((4096, 640, 2560), (4096, 2304, 16384)),
}
WARM = 3
NEVER = 1_000_000
ADDED = {"relu": -0.3, "topk": 0.0}  # to the encoder's bias: 2% of the features fire, as in a trained one

Make = Callable[[int], Penalty]
CONSTRAINTS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "selective": (lambda refresh: SelectiveOrthogonality(refresh=refresh), (1, 10)),
    "mi": (lambda refresh: MIOrtho(refresh=refresh), (20,)),
    "informed": (lambda refresh: InformedOrthogonality(refresh=refresh), (50,)),
}


def main() -> None:
    namespace = parser().parse_args()
    wanted = [(a, shape) for a in namespace.architecture for shape in SHAPES[a]]
    results = []
    with progress("Steps", len(wanted), "cases") as shown:
        for architecture, shape in wanted:
            results += measured(case(architecture, namespace.precision, shape), namespace.rounds)
            shown(1, f"{architecture} {shape}")
    lines = [*_table(results), "", json.dumps({"machine": environment(), "results": results})]
    print("\n".join(lines))
    if namespace.out:
        write_text(namespace.out, "\n".join(lines) + "\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--precision", default=fast_precision(), help="by default what is fast here")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    return parser


def measured(case: Case, rounds: int) -> list[dict[str, Any]]:
    """Every constraint's steps, and the floor."""
    rows = batches(case)
    penalties = {f"{name}, never": make(NEVER) for name, (make, _) in CONSTRAINTS.items()}
    penalties |= {f"{name}, always": make(1) for name, (make, _) in CONSTRAINTS.items()}
    if case.d_sae <= 4096:
        penalties["full"] = FullOrthogonality()
    timed = {name: Timed(penalty) for name, penalty in penalties.items()}
    stepper = begin(run_settings(case, "data"), rows[0])
    with torch.no_grad():
        stepper.sae.b_enc += ADDED[case.architecture]
    steps: dict[str, Callable[[Tensor], Any]] = {"none": _step(stepper, None)}
    steps |= {name: _step(stepper, penalty) for name, penalty in timed.items()}
    steps["floor"] = floor(case, begin(run_settings(case, "random"), rows[0]))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    within: dict[str, list[float]] = {name: [] for name in timed}
    fired = 0.0
    order, shuffled = list(steps), random.Random(0)
    for n in range(WARM + rounds):
        for name in order:
            began = time.perf_counter()
            result = steps[name](rows[n % len(rows)])
            if n >= WARM:
                seconds[name].append(time.perf_counter() - began)
                if name in timed:
                    within[name].append(timed[name].seconds)
            fired = result.l0 if name == "none" else fired
        shuffled.shuffle(order)  # what comes before one has used up the caches
    _spread_choices(seconds)
    _spread_choices(within)
    where = {name: getattr(case, name) for name in ("architecture", "precision", "batch", "d_in", "d_sae")} | {
        "l0": round(fired, 1)
    }
    results = []
    for name, taken in seconds.items():
        ratios = sorted(a / b for a, b in zip(taken, seconds["none"], strict=True))
        result = {"what": name, "case": where, "median_s": round(statistics.median(taken), 5)}
        result["ratio_to_none"] = round(statistics.median(ratios), 3)
        result["middle_half"] = [round(ratios[len(ratios) // 4], 3), round(ratios[-1 - len(ratios) // 4], 3)]
        if name in within:
            result["within_s"] = round(statistics.median(within[name]), 5)
            result["share_within"] = round(statistics.median(within[name]) / statistics.median(seconds["none"]), 3)
        results.append(result)
    return results


def _spread_choices(seconds: dict[str, list[float]]) -> None:
    """In place of steps with and without a choice, those of a constraint that chooses every so many."""
    for name, (_, intervals) in CONSTRAINTS.items():
        never, always = seconds.pop(f"{name}, never"), seconds.pop(f"{name}, always")
        for interval in intervals:
            taken = [(a + (interval - 1) * b) / interval for a, b in zip(always, never, strict=True)]
            seconds[f"{name}, every {interval}"] = taken


class Timed:
    """A penalty that remembers how long its last call took."""

    def __init__(self, penalty: Penalty) -> None:
        self.penalty = penalty
        self.seconds = 0.0

    def __call__(self, *given: Any) -> Tensor:
        began = time.perf_counter()
        result = self.penalty(*given)
        self.seconds = time.perf_counter() - began
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.penalty, name)


def _step(stepper: Stepper, penalty: Timed | None) -> Callable[[Tensor], Any]:
    def step(x: Tensor) -> Any:
        stepper.penalty = cast(Penalty, penalty)
        return stepper.step(x, lr=1e-6, sparsity_weight=L1)

    return step


def _table(results: list[dict[str, Any]]) -> list[str]:
    heading = "architecture precision  batch  d_in  d_sae     L0  constraint                  ms  of none's"
    lines = [f"{heading}            within the penalty"]
    for r in results:
        c, (low, high) = r["case"], r["middle_half"]
        line = f"{c['architecture']:12s} {c['precision']:9s} {c['batch']:6d} {c['d_in']:5d} {c['d_sae']:6d}"
        line += f" {c['l0']:6.1f}  {r['what']:22s} {1000 * r['median_s']:8.1f}"
        line += f"  {r['ratio_to_none']:.2f}x ({low:.2f} to {high:.2f})"
        if "within_s" in r:
            line += f"  {1000 * r['within_s']:6.1f} ms, {100 * r['share_within']:.1f}%"
        lines.append(line)
    return lines


if __name__ == "__main__":
    main()
