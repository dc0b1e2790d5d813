"""What choosing pairs by mutual information costs, and pushing them apart, beside a training step and the naive way.

Each case runs in a process of its own, which gives its peak memory, and interleaves what it compares.

    python -m benchmarks.mutual_information_cost [--rounds 7] [--out benchmarks/mutual_information_cost.txt]

    dense     2304 features from 2304 inputs, half of them active: what training from random weights begins with
    sparse    the same, 3% active: what it comes to
    TopK      64 of 16,384 or of 65,536 features active, from 640 inputs; the step is the one there is, ReLU with dense
              products, so a share of it is a share of something slow
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.base.environment import environment
from sleave.dependence.kde import kde_dense
from sleave.dependence.mutual_information import Estimation, mutual_information
from sleave.dependence.pairs import num_pairs
from sleave.penalties.guided import MIOrtho
from sleave.penalties.pairwise import pair_penalty
from sleave.training.settings import OptimizerSettings, TrainingSettings
from sleave.training.step import Stepper

ROWS = 2048
REFRESH = 20
CASES = {
    "dense 2304": {"d_in": 2304, "d_sae": 2304, "active": 1152},
    "sparse 2304": {"d_in": 2304, "d_sae": 2304, "active": 69},
    "TopK 16384": {"d_in": 640, "d_sae": 16_384, "active": 64},
    "TopK 65536": {"d_in": 640, "d_sae": 65_536, "active": 64},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", choices=CASES, help="measure one case in this process")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(**CASES[arguments.case], rounds=arguments.rounds)))
        return
    lines, results = [f"{ROWS} rows; medians of {arguments.rounds} interleaved rounds"], {}
    for case in CASES:
        command = [sys.executable, "-m", __spec__.name, "--case", case, "--rounds", str(arguments.rounds)]
        results[case] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        lines.append(f"\n{case}: {CASES[case]['active']} of {CASES[case]['d_sae']:,} features active")
        lines += [f"  {name:58s} {value}" for name, value in results[case].items()]
        print("\n".join(lines[-len(results[case]) - 1 :]), flush=True)
    lines.append("\n" + json.dumps({"machine": environment(), "results": results}))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(d_in: int, d_sae: int, active: int, rounds: int) -> dict[str, str]:
    """The figures of one case."""
    generator = torch.Generator().manual_seed(0)
    acts = codes_like_training(d_sae, active, generator)
    before = peak()
    x = torch.randn(ROWS, d_in, generator=generator)
    estimation = {bins: Estimation(bins=bins) for bins in (4, 8)}
    penalty = MIOrtho(estimation=estimation[4])
    penalty(acts)
    pairs = penalty.pairs
    assert pairs is not None
    weight = torch.rand(len(pairs))
    leaf = acts.clone().requires_grad_()

    def push() -> None:
        leaf.grad = None
        pair_penalty(leaf, pairs, weight).backward()

    cases: dict[str, Callable[[], object]] = {
        "MI of all pairs, 4 bins": lambda: mutual_information(acts, **vars(estimation[4])),
        "MI of all pairs, 8 bins": lambda: mutual_information(acts, **vars(estimation[8])),
        "T: MI of all pairs, its 0.9 quantile, the pairs above": lambda: MIOrtho(estimation=estimation[4]).chooser(
            acts
        ),
        "penalty on T, forward and backward": push,
    }
    times = interleaved(cases, rounds)
    after = peak()
    if d_sae <= 16_384:
        naive = interleaved({"naive": lambda: naive_correlation(acts)}, max(1, rounds // 3))["naive"]
    else:  # a strip of rows of the matrix, which would be 17 GB
        part = 4096
        strip = interleaved({"naive": lambda: acts[:, :part].t() @ acts}, 1)["naive"]
        naive = [t * d_sae / part for t in strip]
    steps = {"none": stepper(x, d_sae, active, None)}
    if d_sae < 10_000:
        steps["mi"] = stepper(x, d_sae, active, MIOrtho(estimation=estimation[4]))
    count = REFRESH if d_sae < 10_000 else 1  # whole cycles, of one choice each
    cycles = interleaved({name: repeated(step, count) for name, step in steps.items()}, max(3, rounds // 2))
    base = statistics.median(cycles["none"]) / count
    figures = {name: f"{1000 * statistics.median(t):9.1f} ms" for name, t in times.items()}
    figures[
        "the full correlation matrix, sorted (naive)"
        if d_sae <= 16_384
        else "the full correlation matrix (from a strip)"
    ] = f"{1000 * statistics.median(naive):9.1f} ms"
    figures["KDE of all pairs by its formula (from 8 pairs)"] = f"{naive_kde(acts):9.0f} s"
    figures["a training step without constraint"] = f"{1000 * base:9.1f} ms"
    choose, push_time = (statistics.median(times[name]) for name in list(cases)[2:])
    share = (choose / REFRESH + push_time) / base
    figures["constraint, its choice spread over 20 steps"] = (
        f"{1000 * (choose / REFRESH + push_time):9.1f} ms, {100 * share:.1f}% of a step "
        f"(choice {100 * choose / REFRESH / base:.1f}%, penalty {100 * push_time / base:.1f}%)"
    )
    if "mi" in cycles:
        more = [b / a - 1 for a, b in zip(cycles["none"], cycles["mi"], strict=True)]
        figures["a step with MI-Ortho, over whole cycles of 20"] = (
            f"{1000 * statistics.median(cycles['mi']) / count:9.1f} ms, {statistics.median(more):+.1%}"
        )
    figures["pairs in T"] = f"{len(pairs):9,d} of {num_pairs(d_sae):,}"
    figures["peak memory beyond the codes"] = (
        f"{(after - before) / 1e9:9.2f} GB (codes {acts.numel() * 4 / 1e9:.2f} GB)"
    )
    return figures


def codes_like_training(d_sae: int, active: int, generator: torch.Generator) -> torch.Tensor:
    """Codes of which so many fire on a row, some features ten times as often as others."""
    rate = torch.rand(d_sae, generator=generator) * 2 + 0.2 if active < d_sae // 4 else torch.ones(d_sae)
    strength = torch.rand(ROWS, d_sae, generator=generator).log_().neg_().div_(rate)  # the least win, by their rates
    chosen = strength.topk(active, dim=1, largest=False).indices
    values = torch.rand(ROWS, active, generator=generator) + 0.1
    return torch.zeros(ROWS, d_sae).scatter_(1, chosen, values)


def repeated(step: Callable[[], object], count: int) -> Callable[[], object]:
    return lambda: [step() for _ in range(count)]


def stepper(x: torch.Tensor, d_sae: int, active: int, penalty: MIOrtho | None) -> Callable[[], object]:
    sae = ReLUAutoencoder(x.shape[1], d_sae)
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(d_sae, x.shape[1]), dim=1))
        sae.W_enc.copy_(sae.W_dec.t())
        sae.b_enc.fill_(-float((x[:256] @ sae.W_enc).quantile(1 - active / d_sae)) if d_sae < 10_000 else -2.0)
    step = Stepper(sae, OptimizerSettings(), TrainingSettings(), penalty)
    return lambda: step.step(x, lr=1e-5, sparsity_weight=0.0)


def naive_correlation(acts: torch.Tensor) -> torch.Tensor:
    unit = acts / acts.norm(dim=0).clamp_min(1e-12)
    C = (unit.t() @ unit).triu_(1).abs_()
    return C.flatten().topk(num_pairs(acts.shape[1]) // 10, sorted=False).indices if acts.shape[1] < 10_000 else C


def naive_kde(acts: torch.Tensor) -> float:
    """Seconds that all pairs would take at the pace of 8."""
    x, y = acts[:, :8].t().double().contiguous(), acts[:, 8:16].t().double().contiguous()
    h = torch.full((8,), 0.15 * ROWS**-0.2, dtype=torch.float64)
    begin = time.perf_counter()
    kde_dense(x, y, h, h)
    return (time.perf_counter() - begin) / 8 * num_pairs(acts.shape[1])


def interleaved(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for n in range(rounds + 1):
        for name, run in cases.items():
            begin = time.perf_counter()
            run()
            if n:  # the first round compiles and warms up
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def peak() -> float:
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
