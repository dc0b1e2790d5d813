"""What the examples train on, and how they compare: activations made on the spot, so that it takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import sleave

D_IN, FEATURES, ROWS = 32, 64, 512


def batches(seed: int) -> Iterator[Tensor]:
    """Rows (512, 32): sums of a few of 64 directions, of which every second mostly fires with the one before."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(FEATURES, D_IN, generator=torch.Generator().manual_seed(0))
    directions = torch.nn.functional.normalize(directions, dim=1)
    while True:
        fires = torch.rand(ROWS, FEATURES, generator=generator) < 0.06
        together = torch.rand(ROWS, FEATURES // 2, generator=generator) < 0.7
        fires[:, 1::2] = torch.where(together, fires[:, ::2], fires[:, 1::2])
        yield (fires * (1 + torch.rand(ROWS, FEATURES, generator=generator))) @ directions


def report(name: str, sae: sleave.SparseAutoencoder) -> None:
    """Print L0, FVU and the three strongest of all pairs, on rows that were not trained on."""
    x = torch.cat([next(batches(seed)) for seed in range(100, 110)])
    acts = sae.encode(x)
    fvu = float((sae.decode(acts) - x).square().sum() / (x - x.mean(dim=0)).square().sum())
    print(f"{name}: L0 {float((acts > 0).sum(dim=1).float().mean()):.2f}, FVU {fvu:.3f}, the strongest of all pairs:")
    ranked = sleave.top_pairs(acts, 0.001).ranked()
    for i, j, cosine in zip(*(part[:3].tolist() for part in ranked), strict=True):
        print(f"    features {i:2} and {j:2}: cosine of codes {cosine:.3f}")
