"""How often a value lies where."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

BINS = 40


@dataclass(frozen=True)
class Histogram:
    """How often a value lies where.

    Attributes:
        edges: (bins + 1,) where the bins begin and end; the last is in its bin.
        counts: (bins,) how many lie in each.
        below: how many lie before the first edge.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int


def histogram(values: Float[Tensor, " n"], low: float, high: float, bins: int = BINS) -> Histogram:
    """How many values lie in each of some bins of equal width from `low` to `high`; what is above is in the last."""
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    inside = values[values >= low].double()
    place = ((inside - low) / (high - low) * bins).long().clamp_max(bins - 1)
    counts = torch.bincount(place, minlength=bins)
    return Histogram(tuple(edges.tolist()), tuple(counts.tolist()), len(values) - len(inside))
