"""What a constraint costs: training steps with and without it, interleaved in one process.

The floor is the step's five matrix products in bfloat16 (encode, decode, and three gradients), measured in this run.

    python -m benchmarks.constraint_cost [--batch 4096] [--d-in 640] [--d-sae 2560] [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from sleave.autoencoder.initialisation import initial_autoencoder
from sleave.autoencoder.settings import AutoencoderSettings
from sleave.base.environment import environment
from sleave.dependence.selection import top_pairs
from sleave.penalties.orthogonality import FullOrthogonality, SelectiveOrthogonality
from sleave.training.settings import OptimizerSettings, TrainingSettings
from sleave.training.step import Stepper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--d-in", type=int, default=640)
    parser.add_argument("--d-sae", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    batch, d_in, d_sae = arguments.batch, arguments.d_in, arguments.d_sae
    generator = torch.Generator().manual_seed(0)
    # Rows that sparse features explain, so that codes are as sparse and as correlated as a real run's.
    directions = torch.randn(d_sae, d_in, generator=generator)
    active = (torch.rand(batch, d_sae, generator=generator) < 0.02) * torch.rand(batch, d_sae, generator=generator)
    x = active @ directions

    def stepper(penalty: object) -> Callable[[], object]:
        sae = initial_autoencoder(AutoencoderSettings(d_sae=d_sae), x, torch.Generator().manual_seed(1))
        step = Stepper(sae, OptimizerSettings(), TrainingSettings(), penalty)  # type: ignore[arg-type]
        return lambda: step.step(x, lr=1e-4, sparsity_weight=0.04)

    acts = initial_autoencoder(AutoencoderSettings(d_sae=d_sae), x, torch.Generator().manual_seed(1)).encode(x).detach()
    cases: dict[str, Callable[[], object]] = {
        "floor: five products": _floor(batch, d_in, d_sae),
        "step, no constraint": stepper(None),
        "step, selective": stepper(SelectiveOrthogonality()),
        "step, selective, refresh 10": stepper(SelectiveOrthogonality(refresh=10)),
        "step, full": stepper(FullOrthogonality()),
        "selection, float32 tiles": lambda: top_pairs(acts, screen=torch.float32),
        "selection, bfloat16 tiles": lambda: top_pairs(acts, screen=torch.bfloat16),
    }
    seconds = _interleaved(cases, arguments.rounds)
    base = statistics.median(seconds["step, no constraint"])
    print(f"batch {batch}, d_in {d_in}, d_sae {d_sae}; median of {arguments.rounds} interleaved rounds")
    results = []
    for name, times in seconds.items():
        # Ratios round by round: drift of the machine cancels.
        ratios = [t / b for t, b in zip(times, seconds["step, no constraint"], strict=True)]
        low, ratio, high = min(ratios), statistics.median(ratios), max(ratios)
        median = statistics.median(times)
        print(f"{name:32s} {1000 * median:8.1f} ms   x{ratio:.2f} of no constraint ({low:.2f} to {high:.2f})")
        case = {"batch": batch, "d_in": d_in, "d_sae": d_sae}
        results.append({"what": name, "case": case, "median_s": round(median, 5), "ratio_to_none": round(ratio, 3)})
    floor = statistics.median(seconds["floor: five products"])
    print(f"a step without constraint takes {base / floor:.2f} times its floor")
    print(json.dumps({"machine": environment(), "results": results}))


def _floor(batch: int, d_in: int, d_sae: int) -> Callable[[], object]:
    x, f = torch.randn(batch, d_in).bfloat16(), torch.randn(batch, d_sae).bfloat16()
    W = torch.randn(d_in, d_sae).bfloat16()
    # encode, decode, dL/df, dL/dW_dec, dL/dW_enc
    return lambda: (x @ W, f @ W.t(), x @ W, f.t() @ x, x.t() @ f)


def _interleaved(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for round_number in range(rounds + 10):  # ten to warm up, so that every tenth step refreshes once per ten rounds
        for name, run in cases.items():
            began = time.perf_counter()
            run()
            if round_number >= 10:
                seconds[name].append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main()
