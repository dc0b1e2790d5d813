"""A training step of sleave, SAELens and dictionary_learning, in turn, in one process, and its floor in the same run.

    THP_MEM_ALLOC_ENABLE=1 python -m benchmarks.training_step [--quick] [--out benchmarks/training_step.txt]

(The variable asks torch for large pages, as `sleave train` does; all libraries then get them.)

Rows are made of planted sparse features in noise. All libraries get the same batches, learn at 3e-4, and begin from
their own weights; the first three steps do not count. The floor of ReLU is its five matrix products, in the step's
precision (encode, decode, and three gradients: that of the rows is not needed); that of TopK and BatchTopK is the
encoder's product, which decides what fires, and Adam's pass over the weights. `sleave, plain torch` is a ReLU step
with `training.fused` off. A ratio is the median of the ratios of steps taken one after the other, and its spread the
middle half of them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.libraries import L1, LIBRARIES, Case, fast_precision, from_the_same, run_settings, versions
from sleave.base.environment import environment
from sleave.base.files import write_text
from sleave.base.progress import progress
from sleave.training.loop import begin
from sleave.training.step import Stepper

WARM = 3
BATCHES = 4  # different ones, again and again
DENSE = ((4096, 2304, 2304), (2048, 640, 10240))  # batch, d_in, d_sae
SPARSE = ((2048, 640, 10240), (4096, 2304, 16384))
QUICK = (1024, 640, 5120)  # under a minute on 2 cores, in float32 too
K = 64


def main() -> None:
    namespace = parser().parse_args()
    cases = [case(*given) for given in _grid(namespace)]
    results = []
    with progress("Steps", len(cases), "cases") as shown:
        for each in cases:
            results += measured(each, namespace.steps)
            shown(1, _label(each))
    lines = [*_table(results), "", json.dumps({"machine": environment(), "peers": versions(), "results": results})]
    print("\n".join(lines))
    if namespace.out:
        write_text(namespace.out, "\n".join(lines) + "\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ReLU and TopK at one small size, in what is fast here")
    parser.add_argument("--architecture", nargs="+", default=["relu", "topk", "batch_topk"])
    parser.add_argument("--precision", nargs="+", default=sorted({fast_precision(), "float32"}))
    parser.add_argument("--steps", type=int, default=9, help="steps of each library that count, by default 9")
    parser.add_argument("--out", type=Path)
    return parser


def _grid(namespace: argparse.Namespace) -> list[tuple[str, str, tuple[int, int, int]]]:
    if namespace.quick:
        return [("relu", fast_precision(), QUICK), ("topk", fast_precision(), QUICK)]
    return [
        (architecture, precision, shape)
        for architecture in namespace.architecture
        for precision in namespace.precision
        for shape in (DENSE if architecture == "relu" else SPARSE)
    ]


def case(architecture: str, precision: str, shape: tuple[int, int, int]) -> Case:
    """What is trained, at batch, d_in and d_sae."""
    batch, d_in, d_sae = shape
    return Case(architecture, "own", K, d_in, d_sae, 1000, batch, 3e-4, precision, "cpu", 0)


def batches(case: Case) -> list[Tensor]:
    """Rows of planted features, a fiftieth of which are there on a row, in noise; about one unit a dimension."""
    generator = torch.Generator().manual_seed(0)
    planted = 2 * case.d_in
    directions = torch.nn.functional.normalize(torch.randn(planted, case.d_in, generator=generator), dim=1)
    made = []
    for _ in range(BATCHES):
        active = torch.rand(case.batch, planted, generator=generator) < 0.02
        strength = active * torch.rand(case.batch, planted, generator=generator)
        rows = strength @ directions + 0.01 * torch.randn(case.batch, case.d_in, generator=generator)
        made.append(rows / rows.std())
    return made


def measured(case: Case, steps: int) -> list[dict[str, Any]]:
    """Every library's steps, and the floor."""
    rows = batches(case)
    sample = torch.cat(rows)
    first = from_the_same(case, sample)
    runs: dict[str, Callable[[Tensor], object]] = {
        name: build(case, sample, first).step for name, build in LIBRARIES.items()
    }
    if case.architecture == "relu":
        plain = begin(_plain(case), sample)
        runs["sleave, plain torch"] = lambda x: plain.step(x, lr=case.lr, sparsity_weight=L1)
    runs["floor"] = floor(case, first)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order, shuffled = list(runs), random.Random(0)
    for n in range(WARM + steps):
        for name in order:
            began = time.perf_counter()
            runs[name](rows[n % BATCHES])
            if n >= WARM:
                seconds[name].append(time.perf_counter() - began)
        shuffled.shuffle(order)  # what comes before one has used up the caches
    where = {name: getattr(case, name) for name in ("architecture", "precision", "batch", "d_in", "d_sae")}
    results = []
    for name, taken in seconds.items():
        result = {"what": name, "case": where, "median_s": round(statistics.median(taken), 5)}
        result["ratio_to_floor"] = _ratio(taken, seconds["floor"])[0]
        if name.startswith("sleave"):
            peers = [_ratio(seconds[peer], taken) for peer in ("SAELens", "dictionary_learning")]
            result["times_faster_than_best_peer"], result["middle_half"] = min(peers)
        results.append(result)
    return results


def _plain(case: Case) -> Any:
    settings = run_settings(case, "data")
    return settings.model_copy(update={"training": settings.training.model_copy(update={"fused": False})})


def floor(case: Case, stepper: Stepper) -> Callable[[Tensor], object]:
    """What no way of taking the step can leave out, on tensors of its sizes."""
    dtype = torch.bfloat16 if case.precision == "bfloat16" else torch.float32
    x = torch.randn(case.batch, case.d_in).to(dtype)
    W = torch.randn(case.d_in, case.d_sae).to(dtype)
    if case.architecture == "relu":
        f = torch.randn(case.batch, case.d_sae).to(dtype)
        return lambda _: (x @ W, f @ W.t(), x @ W, f.t() @ x, x.t() @ f)
    for parameter in stepper.sae.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def run(_: Tensor) -> None:
        for part in x.split(512):  # all at once would take memory that nothing needs
            part @ W
        stepper.optimizer.step()

    return run


def _ratio(a: list[float], b: list[float]) -> tuple[float, list[float]]:
    ratios = sorted(x / y for x, y in zip(a, b, strict=True))
    quarter = len(ratios) // 4
    return round(statistics.median(ratios), 3), [round(ratios[quarter], 3), round(ratios[-1 - quarter], 3)]


def _label(case: Case) -> str:
    return f"{case.architecture}, {case.precision}, {case.batch} x {case.d_in} x {case.d_sae}"


def _table(results: list[dict[str, Any]]) -> list[str]:
    lines = ["architecture precision  batch  d_in  d_sae  what                        ms  of floor  best peer takes"]
    for r in results:
        c = r["case"]
        line = f"{c['architecture']:12s} {c['precision']:9s} {c['batch']:6d} {c['d_in']:5d} {c['d_sae']:6d}  "
        line += f"{r['what']:22s} {1000 * r['median_s']:7.1f} {r['ratio_to_floor']:8.2f}x"
        if "middle_half" in r:
            low, high = r["middle_half"]
            line += f"  {r['times_faster_than_best_peer']:.2f}x ({low:.2f} to {high:.2f})"
        lines.append(line)
    return lines


if __name__ == "__main__":
    main()
