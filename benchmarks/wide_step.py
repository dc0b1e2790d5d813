"""A training step of TopK at d_sae = 65,536: what it takes, with and without a constraint.

    python -m benchmarks.wide_step --out benchmarks/wide_step.txt

A median step of `mi` has no choice of pairs in it: that is made every 20 steps. The floor is what cannot be left
out: the product of the rows with the encoder, which decides what fires, and Adam's passes over the weights. Each case
runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.libraries import fast_precision
from sleave.autoencoder.initialisation import initial_autoencoder
from sleave.autoencoder.settings import BatchTopKSettings, CommonAutoencoderSettings, TopKSettings
from sleave.base.environment import environment, peak_memory
from sleave.base.files import torch_dtype, write_text
from sleave.penalties.guided import MIOrtho
from sleave.penalties.orthogonality import SelectiveOrthogonality
from sleave.penalties.penalty import Penalty
from sleave.training.settings import OptimizerSettings, TrainingSettings
from sleave.training.step import Stepper

D_IN, D_SAE, K, ROWS, STEPS, WARM = 640, 65_536, 32, 4096, 12, 2
CASES = ("topk none", "batch_topk none", "topk selective", "topk mi")


def case(name: str) -> dict[str, float]:
    """Seconds of a step, of the product and of Adam, and the peak of memory in bytes."""
    kind, constraint = name.split()
    settings: CommonAutoencoderSettings = TopKSettings(d_sae=D_SAE, k=K, initialisation="random")
    if kind == "batch_topk":
        settings = BatchTopKSettings(d_sae=D_SAE, k=K, initialisation="random")
    penalties: dict[str, Penalty | None] = {"none": None, "selective": SelectiveOrthogonality(), "mi": MIOrtho()}
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2 * ROWS, D_IN, generator=generator) @ torch.randn(D_IN, D_IN, generator=generator) / D_IN**0.5
    sae = initial_autoencoder(settings, x, generator)
    stepper = Stepper(sae, OptimizerSettings(), TrainingSettings(), penalties[constraint], clip_norm=1.0)
    seconds: dict[str, list[float]] = {"step": [], "product": [], "adam": []}
    dtype = torch_dtype(fast_precision())
    rows, weight = x[:ROWS].to(dtype), sae.W_enc.detach().to(dtype)
    for n in range(STEPS):
        began = time.perf_counter()
        stepper.step(x[n % 2 * ROWS :][:ROWS], lr=3e-4, sparsity_weight=0.0)
        seconds["step"].append(time.perf_counter() - began)
    peak = peak_memory()
    for _ in range(STEPS):
        began = time.perf_counter()
        for part in rows.split(512):
            _ = part @ weight
        seconds["product"].append(time.perf_counter() - began)
        began = time.perf_counter()
        stepper.optimizer.step()
        seconds["adam"].append(time.perf_counter() - began)
    return {name: statistics.median(taken[WARM:]) for name, taken in seconds.items()} | {"peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    namespace = parser.parse_args()
    if namespace.case:
        print(json.dumps(case(namespace.case)))
        return
    lines = [f"d_in {D_IN}, d_sae {D_SAE}, k {K}, {ROWS} rows, {fast_precision()}: medians of {STEPS - WARM} steps"]
    lines.append(f"{'':18}{'s/step':>8}{'product':>9}{'Adam':>7}{'over floor':>12}{'peak GB':>9}")
    for name in CASES:
        run = [sys.executable, "-m", "benchmarks.wide_step", "--case", name]
        r = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
        floor = r["product"] + r["adam"]
        figures = f"{r['step']:8.2f}{r['product']:9.2f}{r['adam']:7.2f}{r['step'] / floor:11.2f}x{r['peak'] / 1e9:9.2f}"
        lines.append(f"{name:18}{figures}")
        print(lines[-1], flush=True)
    text = "\n".join([*lines, "", json.dumps(environment())]) + "\n"
    print(text)
    if namespace.out:
        write_text(namespace.out, text)


if __name__ == "__main__":
    main()
