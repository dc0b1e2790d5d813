"""How the cost of a step grows: measured over batch and widths, fitted by what it is made of, checked where not fitted.

    THP_MEM_ALLOC_ENABLE=1 python -m benchmarks.scaling [--quick] [--out benchmarks/scaling.txt]

A step without constraint is taken to be a sum of four things, each with a rate of its own:

    product   2 B d_in d_sae     operations of the encoder's product, which decides what fires
    codes     B d_sae            numbers that are looked through for what fires
    entries   8 B L0 d_in        operations on what fires: decoding, and the gradients of codes, decoder and encoder
    weights   2 d_in d_sae       numbers that Adam passes over

A penalty on pairs that were chosen, timed by itself since steps vary by more, is of `walked` (B L0^2: each co-
activation of a batch, from both sides) and `partners` (2 |T|, both partners of each chosen pair); a choice by
mutual information from n rows takes `counted` (its co-activations, about n L0^2 / 2) and `listed` (pairs that fire
together). The rates are found by least squares of relative errors, none below 0, from the shapes marked `fit`;
those marked `check`, which lie beyond them, were left out. Rows are those of `benchmarks.training_step`; steps are
in the precision that is fast on this machine, medians in one process. TopK keeps k = 32; ReLU begins from data,
with its biases lowered until about 2% fire.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy.optimize import nnls

from benchmarks.constraint_cost import ADDED, Timed
from benchmarks.libraries import L1, Case, run_settings
from benchmarks.training_step import batches
from sleave.base.environment import environment, peak_memory
from sleave.base.files import write_text
from sleave.base.progress import progress
from sleave.codes.codes import Codes, as_codes
from sleave.dependence.choice import ByInformation
from sleave.dependence.coactivation import dots
from sleave.dependence.mutual_information import Estimation
from sleave.penalties.informed import InformedOrthogonality
from sleave.penalties.penalty import Penalty
from sleave.training.loop import begin

WARM, STEPS, CHOICES, K = 2, 9, 3, 32
FIT = {  # batch, d_in, d_sae
    "topk": [
        (1024, 320, 2560),
        (2048, 320, 5120),
        (4096, 320, 2560),
        (1024, 640, 5120),
        (2048, 640, 2560),
        (2048, 640, 5120),
        (4096, 640, 2560),
        (2048, 640, 10240),
        (2048, 1280, 2560),
        (1024, 1280, 5120),
        (512, 640, 20480),
    ],
    "relu": [
        (1024, 320, 2560),
        (2048, 320, 2560),
        (2048, 640, 2560),
        (4096, 640, 2560),
        (1024, 640, 5120),
        (1024, 1280, 2560),
        (2048, 1280, 2560),
    ],
}
CHECK = {"topk": [(4096, 640, 16384), (4096, 1280, 10240), (2048, 640, 32768)], "relu": [(4096, 1280, 5120)]}
TERMS = {
    "step": ("product", "codes", "entries", "weights"),
    "constraint": ("walked", "partners"),
    "choice": ("counted", "listed"),
}


def main() -> None:
    namespace = parser().parse_args()
    points = measure_all(namespace.quick)
    fits = {a: {what: fit(points, a, what) for what in TERMS} for a in FIT}
    lines = [*_rates(fits), "", *_table(points, fits)]
    record = {"machine": environment(), "peak_memory_bytes": peak_memory(), "rates": fits, "results": points}
    lines += ["", json.dumps(record)]
    print("\n".join(lines))
    if namespace.out:
        write_text(namespace.out, "\n".join(lines) + "\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only shapes up to 7 million codes in a batch")
    parser.add_argument("--out", type=Path)
    return parser


def measure_all(quick: bool) -> list[dict[str, Any]]:
    """Every shape, smallest first."""
    wanted = [(a, s, role) for role, of in (("fit", FIT), ("check", CHECK)) for a, shapes in of.items() for s in shapes]
    wanted = [w for w in wanted if not quick or w[1][0] * w[1][2] <= 7_000_000]
    points = []
    with progress("Shapes", len(wanted), "shapes") as shown:
        for architecture, shape, role in wanted:
            points.append(measured(architecture, shape) | {"role": role})
            shown(1, f"{architecture} {shape}")
    return points


def measured(architecture: str, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Seconds of a step, of a penalty within it, and of a choice; and the sizes that they follow from."""
    batch, d_in, d_sae = shape
    case = Case(architecture, "own", K, d_in, d_sae, 1000, batch, 3e-4, "auto", "cpu", 0)
    rows = batches(case)
    stepper = begin(run_settings(case, "data" if architecture == "relu" else "random"), torch.cat(rows))
    if architecture == "relu":
        with torch.no_grad():
            stepper.sae.b_enc += ADDED["relu"]
    with torch.no_grad():
        pooled = Codes.cat([as_codes(stepper.sae.encode(x)) for x in rows])
    criterion = ByInformation(0.1, estimation=Estimation(bins=4), above_chance=True)
    criterion.choose(pooled, pooled)
    choice = _median(lambda: criterion.choose(pooled, pooled), CHOICES)
    penalty = Timed(InformedOrthogonality(refresh=1_000_000))
    penalty(pooled)  # chooses
    plain, within, fired = [], [], []
    for n in range(WARM + STEPS):
        for constraint in (None, penalty) if n % 2 else (penalty, None):
            stepper.penalty = cast("Penalty | None", constraint)
            began = time.perf_counter()
            result = stepper.step(rows[n % len(rows)], lr=1e-6, sparsity_weight=L1)
            if n >= WARM and constraint is None:
                plain.append(time.perf_counter() - began)
        within.append(penalty.seconds)
        fired.append(result.l0)
    l0 = statistics.fmean(fired)
    listed = len(dots(pooled)[0])
    return {
        "architecture": architecture,
        "batch": batch,
        "d_in": d_in,
        "d_sae": d_sae,
        "l0": round(l0, 2),
        "pairs": len(penalty.pairs),
        "seconds": {
            "step": statistics.median(plain),
            "constraint": statistics.median(within[WARM:]),
            "choice": choice,
        },
        "sizes": {
            "product": 2.0 * batch * d_in * d_sae,
            "codes": float(batch) * d_sae,
            "entries": 8.0 * batch * l0 * d_in,
            "weights": 2.0 * d_in * d_sae,
            "walked": batch * l0**2,
            "partners": 2.0 * len(penalty.pairs),
            "counted": float(pooled.coactivations),
            "listed": float(listed),
        },
    }


def _median(act: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def fit(points: list[dict[str, Any]], architecture: str, what: str) -> dict[str, float]:
    """Seconds for one of each of the things that something is made of."""
    mine = [p for p in points if p["architecture"] == architecture and p["role"] == "fit" and p["seconds"][what] > 0]
    sizes = np.array([[p["sizes"][term] / p["seconds"][what] for term in TERMS[what]] for p in mine])
    scale = sizes.max(axis=0)
    found, _ = nnls(sizes / scale, np.ones(len(mine)))
    return dict(zip(TERMS[what], (found / scale).tolist(), strict=True))


def predicted(point: dict[str, Any], rates: dict[str, float]) -> float:
    """Seconds by the fitted rates."""
    return sum(rate * point["sizes"][term] for term, rate in rates.items())


def _rates(fits: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    lines = ["seconds for a billion of each:"]
    for architecture, parts in fits.items():
        said = [f"{term} {1e9 * rate:.3g}" for rates in parts.values() for term, rate in rates.items()]
        lines.append(f"  {architecture:5s} {', '.join(said)}")
    return lines


def _table(points: list[dict[str, Any]], fits: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    head = "".join(f"{what:>12s} ms  model" for what in TERMS)
    lines = [f"{'':6s} {'':5s}  batch  d_in   d_sae     L0      pairs{head}"]
    for p in points:
        line = f"{p['role']:6s} {p['architecture']:5s} {p['batch']:6d} {p['d_in']:5d} {p['d_sae']:7d} {p['l0']:6.1f}"
        line += f" {p['pairs']:10,d}"
        for what in TERMS:
            seconds = p["seconds"][what]
            line += f" {1000 * seconds:14.1f}  x{predicted(p, fits[p['architecture']][what]) / seconds:.2f} "
        lines.append(line)
    return lines


if __name__ == "__main__":
    main()
