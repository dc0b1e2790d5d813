"""What the cost model says of machines that nobody here has: wide dictionaries on 8 and 64 GPUs. Nothing is measured.

    python -m benchmarks.scaling_elsewhere [--out benchmarks/scaling_elsewhere.txt]

Operations and bytes are counted from what `sleave train` does under torchrun; rates are those that the maker of the GPU
states (H100 SXM: bfloat16 products, memory, NVLink within eight, 400 Gb/s for each between eights), times the share of
them that well-made programs tend to reach, which is an assumption. TopK, d_in 2304, k = 64, 8,192 rows a step in all.

A step without constraint: the encoder's product; the passes over all pre-activations in which torch.topk finds the
largest, and ties are counted; four passes over rows of the weights for what fires; the passes of Adam and of the
decoder's norms; and what is sent. Parts of a dictionary add up reconstructions and exchange their largest codes; shares
of a batch add up gradients. A constraint walks co-activations in plain torch: a penalty looks each up among the chosen
pairs, a choice by mutual information sorts them (what chance alone would give comes from a CPU, and is not counted).
Parts of a dictionary each do all of it, from the codes of all; so do all GPUs in a choice. Beside it, the choice on a
CPU, at the rate that `benchmarks.scaling` measured on its machine.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from sleave.base.files import write_text

PRODUCT, MEMORY, NEAR, FAR = 989e12, 3.35e12, 450e9, 50e9  # a second, of one GPU
REACHED = {"product": 0.5, "memory": 0.6, "link": 0.6}
ROWS, D_IN, K = 8192, 2304, 64
SELECT = 60.0  # bytes moved for each pre-activation: torch.topk's passes, digit by digit, and two counts
LOOKUP = 700.0  # for each co-activation of a penalty: its key made, looked for among the pairs, and added to sums
RANK = 1500.0  # for each co-activation of a choice: its key made, sorted twice, counted, and scored
UPDATE = 60.0  # for each weight: Adam reads four numbers and writes three; projecting and norms read and write again
KEPT = 20.0  # bytes held for each weight: itself, its gradient, two moments, a bfloat16 copy and its transpose
WINDOW = 10
MEASURED = Path(__file__).with_name("scaling.txt")


@dataclass(frozen=True)
class Layout:
    """So many parts of the dictionary, times so many shares of the batch."""

    shards: int
    shares: int

    @property
    def gpus(self) -> int:
        return self.shards * self.shares


LAYOUTS = (Layout(1, 8), Layout(8, 1), Layout(8, 8), Layout(64, 1))


def step(d_sae: int, layout: Layout) -> dict[str, float]:
    """Milliseconds of a step's parts, on each GPU."""
    rows, features = ROWS / layout.shares, d_sae / layout.shards
    weights = 2 * D_IN * features
    link = REACHED["link"] * (NEAR if layout.shards <= 8 else FAR)
    between = REACHED["link"] * (NEAR if layout.gpus <= 8 else FAR)
    memory = REACHED["memory"] * MEMORY
    ring = 2 * (layout.shards - 1) / layout.shards
    seconds = {
        "product": 2 * rows * D_IN * features / (REACHED["product"] * PRODUCT),
        "select": SELECT * rows * features / memory,
        "entries": 4 * 2 * 4 * D_IN * rows * K / layout.shards / memory,
        "update": UPDATE * weights / memory,
        "parts": (ring * 4 * rows * D_IN + 4 * rows * K * (layout.shards - 1)) / link,
        "shares": 4 * weights * 2 * (layout.shares - 1) / layout.shares / between,
    }
    return {name: 1000 * value for name, value in seconds.items()}


def penalty(layout: Layout) -> float:
    """Milliseconds of a constraint's penalty, on each GPU."""
    return 1000 * LOOKUP * ROWS / layout.shares * K**2 / 2 / (REACHED["memory"] * MEMORY)


def choice(d_sae: int) -> dict[str, float]:
    """Seconds of a choice from `WINDOW` batches, on a GPU and on a CPU; every process makes the same one."""
    rows = WINDOW * ROWS
    rates = json.loads(MEASURED.read_text(encoding="utf-8").strip().splitlines()[-1])["rates"]["topk"]["choice"]
    together = min(rows * K**2 / 2, d_sae**2 / 2)
    return {
        "gpu": RANK * rows * K**2 / 2 / (REACHED["memory"] * MEMORY),
        "cpu": rates["counted"] * rows * K**2 / 2 + rates["listed"] * together,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    namespace = parser.parse_args()
    parts = list(step(2048, LAYOUTS[0]))
    lines = [f"{'d_sae':>9s} {'GPUs':>5s} {'layout':>9s} {'GB each':>8s}" + "".join(f"{p:>9s}" for p in parts)]
    lines[0] += f"{'ms/step':>9s} {'1G rows, h':>11s}  penalty, ms   a choice: GPU, s   CPU, s"
    for d_sae in (131_072, 1_048_576):
        for layout in LAYOUTS:
            taken = step(d_sae, layout)
            size = KEPT * 2 * D_IN * d_sae / layout.shards / 1e9
            line = f"{d_sae:9,d} {layout.gpus:5d} {f'{layout.shards} x {layout.shares}':>9s} {size:8.1f}"
            line += "".join(f"{ms:9.2f}" for ms in taken.values())
            total = sum(taken.values())
            chosen = choice(d_sae)
            line += f"{total:9.1f} {1e9 / ROWS * total / 3.6e6:11.2f} {penalty(layout):12.1f}"
            line += f"{chosen['gpu']:19.2f} {chosen['cpu']:8.1f}"
            lines.append(line)
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if namespace.out:
        write_text(namespace.out, text)


if __name__ == "__main__":
    main()
