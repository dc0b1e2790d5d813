"""Training TopK and BatchTopK with sleave, SAELens and dictionary_learning, side by side on the same rows.

    PYTHONPATH=DICTIONARY_LEARNING python -m benchmarks.peers activations/mi_ortho --layer 13 --d-sae 2560 \
        --steps 1000 --batch 2048 --k 16,32,64 --out benchmarks/peers.txt

The same for all: rows, their units (standardised, by the training rows' statistics) and order, steps, learning rate
(constant), Adam's betas (0.9, 0.999), no weight decay, d_sae, k, precision. Each begins from its library's `own`
weights, and from the `same` ones: random unit decoder rows, the encoder tied to them, b_dec the geometric median. The
libraries take their steps in turn, another first each time; seconds are medians, ratios are taken step by step.
Held-out rows are encoded and decoded by each library's own inference: BatchTopK's is by its threshold, and SAELens's of
what it saves for inference. Where these give different L0, their FVU do not compare.

Each library's own, by its defaults:
* sleave: gradient clipped to norm 1. AuxK times 1/32 for features silent for 100,000 rows. Threshold: running mean, 0.1
  (0.01 when the kept peers.txt was made), from its first value. Its own weights are data points.
* SAELens: gradient clipped to norm 1. AuxK times 1 for features silent for 1,000 batches. Decoder rows are not held at
  norm one; codes are times their norm. Threshold: running mean, 0.01, from 0.
* dictionary_learning: gradient clipped to norm 1. AuxK times 1/32 (over the residual's variance) for features silent
  for 10 million rows. b_dec begins as the geometric median of the first batch. Threshold: running mean, 0.001, from its
  first value; that is of step 1,000 by default, here of the middle of training if that is sooner, since otherwise a
  short training would have none. Its warm-up of 1,000 steps is left out, since the others have none.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.libraries import LIBRARIES, Case, Infer, from_the_same, versions
from sleave.activations.source import StoredSource
from sleave.activations.store import Store
from sleave.autoencoder.initialisation import NUM_SAMPLES
from sleave.base.device import choose_device
from sleave.base.environment import environment
from sleave.base.progress import progress
from sleave.evaluation.reconstruction import Reconstruction

WARM = 10  # steps whose seconds do not count
ROWS = 2048  # held-out rows at a time


def main() -> None:
    arguments = parser().parse_args()
    store = Store.open(Path(arguments.store), verify=False)
    device = str(choose_device(arguments.device))
    given = {name: getattr(arguments, name) for name in ("d_sae", "steps", "batch", "lr", "precision", "seed")}
    cases = [
        Case(architecture, start, k, d_in=store.d_in, device=device, **given)
        for architecture in ("topk", "batch_topk")
        for k in arguments.k
        for start in ("own", "same")
    ]
    results = []
    with progress("Training", len(cases) * arguments.steps, "steps") as shown:
        for case in cases:
            source = StoredSource(
                store, arguments.layer, "standardise", case.batch, 64 * case.batch, 24, arguments.seed
            )
            results += compare(case, source, arguments.rows, lambda case=case: shown(1, label(case)))
    title = f"{arguments.store}, layer {arguments.layer}: d_in {store.d_in}, d_sae {arguments.d_sae}"
    title += f", {arguments.steps} steps of {arguments.batch} rows, lr {arguments.lr:g}, {arguments.precision}"
    title += f"; {results[0]['rows']} held-out rows"
    lines = [
        title,
        *table(results),
        "",
        json.dumps({"machine": environment(), "peers": versions(), "results": results}),
    ]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with arguments.out.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, results[0])
            writer.writeheader()
            writer.writerows(results)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="an activation store, as `sleave harvest` makes it")
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--d-sae", type=int, default=2560)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--k", type=lambda text: [int(k) for k in text.split(",")], default=[16, 32, 64])
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=16_384, help="held-out rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the table, and beside it the same as .csv")
    return parser


def compare(case: Case, source: StoredSource, rows: int, shown: Callable[[], None]) -> list[dict[str, Any]]:
    """Train with every library in turn, and evaluate each on the first held-out rows."""
    sample = source.sample(min(NUM_SAMPLES, source.num_train_rows))
    first = from_the_same(case, sample)
    trainers = {name: build(case, sample, first) for name, build in LIBRARIES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    order = list(trainers)
    for _ in range(case.steps):
        x = source.next_batch().to(case.device)
        for name in order:
            began = time.perf_counter()
            trainers[name].step(x)
            if case.device != "cpu":
                torch.cuda.synchronize(case.device)
            seconds[name].append(time.perf_counter() - began)
        order.append(order.pop(0))
        shown()
    results = []
    for name, trainer in trainers.items():
        counted, base = (seconds[n][WARM if case.steps > WARM else 0 :] for n in (name, "sleave"))
        ratios = [a / b for a, b in zip(counted, base, strict=True)]
        times = {"seconds_per_step": statistics.median(counted), "ratio_to_sleave": statistics.median(ratios)}
        results.append({"library": name, **asdict(case), **evaluate(trainer.finish(), case, source, rows), **times})
    return results


@torch.no_grad()
def evaluate(infer: Infer, case: Case, source: StoredSource, rows: int) -> dict[str, float]:
    """Figures of held-out rows, in the units of training."""
    reconstruction, seen = Reconstruction(case.d_in), 0
    fired = torch.zeros(case.d_sae, device=case.device)
    for raw in islice(source.heldout(ROWS), max(1, rows // ROWS)):
        x = source.scaling.apply(raw).to(case.device)
        acts, x_hat = infer(x)
        reconstruction.update(x, x_hat)
        fired += (acts != 0).float().sum(dim=0)
        seen += len(x)
    never = int((fired == 0).sum())
    return {"rows": seen, "fvu": reconstruction.compute().fvu, "l0": float(fired.sum()) / seen, "never_fired": never}


def table(results: list[dict[str, Any]]) -> list[str]:
    """A line for each training."""
    lines = ["architecture   k  start  library                FVU     L0  never fired   ms/step  of sleave's"]
    for r in results:
        lines.append(
            f"{r['architecture']:10s} {r['k']:5d}  {r['start']:5s}  {r['library']:19s} {r['fvu']:6.4f} {r['l0']:6.1f} "
            f"{r['never_fired']:12d} {1000 * r['seconds_per_step']:9.1f}  x{r['ratio_to_sleave']:.2f}"
        )
    return lines


def label(case: Case) -> str:
    """The case in a few words."""
    return f"{case.architecture}, k {case.k}, from {case.start} weights"


if __name__ == "__main__":
    main()
