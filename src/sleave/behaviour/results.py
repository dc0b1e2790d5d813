"""What results have in common: a status in place of figures that cannot be had, and intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

RESAMPLES = 1000
LEVEL = 0.95

Intervals = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Result:
    """Figures, or why there are none.

    Attributes:
        status: "ok", or a word that says why there are no figures.
        why: the same in a sentence; empty if there are figures.
    """

    status: str
    why: str

    def to_dict(self) -> dict[str, Any]:
        """As nested JSON values."""
        return asdict(self)


Figures = Callable[[Tensor], Mapping[str, Tensor]]


def figures_and_intervals(
    sums: Float64[Tensor, "documents quantities"], figures: Figures
) -> tuple[dict[str, float], Intervals]:
    """Figures that are functions of sums over documents, and how far other documents might have moved them.

    Args:
        sums: what each document adds.
        figures: from sums (..., quantities) to named figures (...).

    Returns:
        the figures; for each its 95% interval, by a bootstrap of the documents (percentiles of 1,000 resamples, the
        same whenever there are as many documents).
    """
    documents = len(sums)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(documents, (RESAMPLES, documents), generator=generator)
    times = torch.zeros(RESAMPLES, documents, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(times))
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    resampled = {name: values.quantile(tails).tolist() for name, values in figures(times @ sums).items()}
    return (
        {name: float(value) for name, value in figures(sums.sum(dim=0)).items()},
        {name: (low, high) for name, (low, high) in resampled.items()},
    )
