"""What choosing pairs costs, by correlation and by mutual information, exactly, of all pairs, beside the naive ways.

    python -m benchmarks.pair_selection [--rounds 7] [--out benchmarks/pair_selection.txt]

Each case runs in a process of its own, which gives its peak memory, and interleaves what it compares. Codes are those
that training hands over: dense ones of ReLU, and of TopK what fires.

    dense     half of the features active: what training from random weights begins with
    sparse    3% active: what it comes to
    TopK      64 active

The naive ways: the whole matrix of correlations and torch.topk of it (up to 16,384 features; above, the product alone,
from a strip of it); joint histograms of all pairs as products of one-hot bins (from a strip); and the kernel density
estimate of the MI-Ortho paper by its formula (from 1 pair).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sleave.base.environment import environment, peak_memory
from sleave.base.files import write_text
from sleave.codes.codes import Codes
from sleave.dependence.choice import ByCorrelation, ByInformation
from sleave.dependence.kde import kde_dense
from sleave.dependence.mutual_information import Estimation, mutual_information
from sleave.dependence.pairs import num_pairs

ROWS = 4096
CASES = {
    "dense 2304": {"d_sae": 2304, "active": 1152},
    "sparse 2304": {"d_sae": 2304, "active": 69},
    "TopK 2304": {"d_sae": 2304, "active": 64},
    "TopK 16384": {"d_sae": 16_384, "active": 64},
    "TopK 65536": {"d_sae": 65_536, "active": 64},
}
WHOLE = 16_384  # features up to which the naive way can hold all correlations
BINS = 5  # of the naive histograms: zero, and four


def main() -> None:
    namespace = parser().parse_args()
    if namespace.case:
        print(json.dumps(measured(namespace.case, namespace.rounds)))
        return
    lines, results = [f"{ROWS:,} rows; medians of {namespace.rounds} interleaved rounds"], []
    for case in CASES:
        command = [sys.executable, "-m", __spec__.name, "--case", case, "--rounds", str(namespace.rounds)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        lines += ["", *_table(found)]
        print("\n".join(lines[-len(found["results"]) - 2 :]), flush=True)
        results += found["results"]
    lines += ["", json.dumps({"machine": environment(), "results": results})]
    print(lines[-1])
    if namespace.out:
        write_text(namespace.out, "\n".join(lines) + "\n")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", choices=CASES, help="measure one case in this process")
    return parser


def measured(name: str, rounds: int) -> dict[str, Any]:
    """The figures of one case."""
    d_sae, active = CASES[name]["d_sae"], CASES[name]["active"]
    generator = torch.Generator().manual_seed(0)
    dense = codes_like_training(d_sae, active, generator)
    acts: Tensor | Codes = Codes.from_dense(dense) if name.startswith("TopK") else dense
    few = Estimation(bins=4)
    ways: dict[str, Callable[[], object]] = {
        "cosine: the top 0.1% of all pairs": lambda: ByCorrelation(0.001).choose(acts, acts),
        "MI of all pairs, 4 bins": lambda: mutual_information(acts, **vars(few)),
        "MI of all pairs, 16 bins": lambda: mutual_information(acts),
        "MI, 4 bins: the top 10% that fire together": lambda: ByInformation(0.1, estimation=few).choose(acts, acts),
    }
    del dense
    before = from_here()
    seconds = interleaved(ways, rounds)
    peak = peak_memory() - before
    if isinstance(acts, Codes):
        acts = acts.to_dense()
    seconds |= _naive(acts)
    case = {"case": name, "d_sae": d_sae, "active": active, "rows": ROWS}
    results = [{"what": what, "case": case, "median_s": statistics.median(taken)} for what, taken in seconds.items()]
    chosen = {rule: len(ways[rule]()) for rule in list(ways)[::3]}  # type: ignore[arg-type]
    return {"results": results, "peak": peak, "chosen": chosen, "pairs": num_pairs(d_sae)} | case


def from_here() -> int:
    """Bytes in memory now, from where the peak is counted anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def _naive(acts: Tensor) -> dict[str, list[float]]:
    d_sae = acts.shape[1]
    whole = d_sae <= WHOLE
    name = "naive: all correlations, torch.topk" if whole else "naive: the product of all columns (a strip of it)"
    share = 1.0 if whole else 1024 / d_sae
    strip = min(d_sae, 128)
    cut = torch.bucketize(acts, acts[acts > 0].quantile(torch.linspace(0, 1, BINS)[1:-1])) + (acts > 0)
    hot = torch.nn.functional.one_hot(cut[:, : 4 * strip], BINS)[..., 1:].flatten(1).float()
    x, y = acts[:, :1].t().double().contiguous(), acts[:, 1:2].t().double().contiguous()
    h = torch.full((1,), 0.15 * ROWS**-0.2, dtype=torch.float64)
    ways = {
        name: ((lambda: _whole(acts)) if whole else (lambda: acts[:, :1024].t() @ acts), 1 / share),
        "naive: joint histograms as products (a strip)": (
            lambda: hot[:, : hot.shape[1] // 4].t() @ hot,
            num_pairs(d_sae) / (4 * strip**2),
        ),
        "naive: kernel densities by the formula (1 pair)": (lambda: kde_dense(x, y, h, h), num_pairs(d_sae)),
    }
    seconds = interleaved({what: way for what, (way, _) in ways.items()}, 3)
    return {what: [s * times for s in seconds[what]] for what, (_, times) in ways.items()}


def _whole(acts: Tensor) -> Tensor:
    unit = acts / acts.norm(dim=0).clamp_min(1e-12)
    C = (unit.t() @ unit).triu_(1).abs_()
    return C.flatten().topk(round(0.001 * num_pairs(acts.shape[1])), sorted=False).indices


def codes_like_training(d_sae: int, active: int, generator: torch.Generator) -> Tensor:
    """Codes of which so many fire on a row, some features ten times as often as others."""
    rate = torch.rand(d_sae, generator=generator) * 2 + 0.2 if active < d_sae // 4 else torch.ones(d_sae)
    acts = torch.zeros(ROWS, d_sae)
    for rows in acts.split(512):
        wait = torch.rand(rows.shape, generator=generator).log_().neg_().div_(rate)  # the least win, by their rates
        chosen = wait.topk(active, dim=1, largest=False).indices
        rows.scatter_(1, chosen, torch.rand(len(rows), active, generator=generator) + 0.1)
    return acts


def interleaved(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round but the first, which compiles and warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for n in range(rounds + 1):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            if n:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def _table(found: dict[str, Any]) -> list[str]:
    lines = [f"{found['case']}: {found['active']} of {found['d_sae']:,} features active, {found['pairs']:,} pairs"]
    for result in found["results"]:
        rule = found["chosen"].get(result["what"])
        lines.append(f"  {result['what']:50s}{result['median_s']:14.3f} s{f'   {rule:,} pairs' if rule else ''}")
    lines.append(f"  peak of memory beyond the codes {found['peak'] / 1e9:.2f} GB")
    return lines


if __name__ == "__main__":
    main()
