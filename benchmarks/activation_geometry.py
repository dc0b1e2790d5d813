"""What the activations of a store look like, and so why training needs a scaling.

python -m benchmarks.activation_geometry activations/quickstart
"""

from __future__ import annotations

import argparse
import json

import torch

from sleave.activations.store import Store
from sleave.base.environment import environment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("--rows", type=int, default=50_000)
    arguments = parser.parse_args()
    store = Store.open(arguments.store)
    results = []
    for layer in store.layers:
        rows = store.layer(layer)
        x = torch.cat(list(rows.blocks()))[: arguments.rows].double()
        norm = x.norm(dim=1)
        variance = torch.linalg.eigvalsh(torch.cov(x.T)).flip(0)
        std = x.std(dim=0)
        scaled = torch.linalg.eigvalsh(torch.corrcoef(x.T)).flip(0)
        figures = {
            "layer": layer,
            "rows": len(x),
            "share of variance in 1 direction": float(variance[0] / variance.sum()),
            "in 10 directions": float(variance[:10].sum() / variance.sum()),
            "in 1 direction after standardising": float(scaled[0] / scaled.sum()),
            "in 10 directions after standardising": float(scaled[:10].sum() / scaled.sum()),
            "largest |mean| / deviation of a dimension": float((x.mean(dim=0).abs() / std).max()),
            "largest / median deviation of a dimension": float(std.max() / std.median()),
            "median norm": float(norm.median()),
            "largest norm / median": float(norm.max() / norm.median()),
            "rows left out at harvest": store.dropped_rows,
        }
        for name, value in figures.items():
            print(f"{name:44s} {value:,.4g}")
        results.append(figures)
    print(json.dumps({"machine": environment(), "store": store.harvest, "results": results}))


if __name__ == "__main__":
    main()
