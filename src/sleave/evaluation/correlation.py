"""How correlated features are, over all P pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.base.errors import SleaveError

OFTEN = 10  # rows; a peak over pairs that fire together less often is an accident of the sample
WIDEST = 16_384  # d_sae; at the end about 40 bytes are held for each of d_sae^2 numbers, here 11 GB


@dataclass(frozen=True)
class CorrelationResult:
    """|C| over all P = d_sae (d_sae - 1) / 2 pairs, zeros included.

    Attributes:
        peak_cosine: the largest |cosine|; it may be that of two features that fire once, together.
        peak_cosine_often: the largest among pairs that fire together on at least 10 rows.
        mean_cosine, p999_cosine: mean and 99.9th percentile.
        peak_pearson, peak_pearson_often, mean_pearson, p999_pearson: the same of the centred correlation.
    """

    peak_cosine: float
    peak_cosine_often: float
    mean_cosine: float
    p999_cosine: float
    peak_pearson: float
    peak_pearson_often: float
    mean_pearson: float
    p999_pearson: float


class Correlation:
    """Accumulates the centred Gram matrix of the codes and the counts of co-activation: memory grows with d_sae^2.

    Reference: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", Eq. (2.1).
    """

    def __init__(self, d_sae: int) -> None:
        if d_sae > WIDEST:
            raise SleaveError(f"`d_sae` (= {d_sae}) must be at most {WIDEST} for the correlation of all pairs.")
        self._comoment = torch.zeros(d_sae, d_sae, dtype=torch.float64)
        self._together = torch.zeros(d_sae, d_sae, dtype=torch.float32)
        self._mean = torch.zeros(d_sae, dtype=torch.float64)
        self._rows = 0

    def update(self, acts: Float[Tensor, "batch d_sae"]) -> None:
        """Add a batch."""
        fires = (acts > 0).to(acts.dtype)
        self._together += fires.t() @ fires
        if len(acts) == 0:
            return
        mean = acts.mean(dim=0, dtype=torch.float64)
        centred = (acts - mean).to(acts.dtype)
        delta = mean - self._mean
        rows = self._rows + len(acts)
        self._comoment += centred.t() @ centred
        self._comoment.addr_(delta, delta, alpha=self._rows * len(acts) / rows)
        self._mean += delta * (len(acts) / rows)
        self._rows = rows

    def compute(self) -> CorrelationResult:
        """The result so far."""
        upper = torch.ones_like(self._together, dtype=torch.bool).triu_(diagonal=1)
        often = self._together[upper] >= OFTEN
        gram = self._comoment.addr(self._mean, self._mean, alpha=self._rows)
        cosine = _figures(_normalised(gram)[upper].abs(), often)
        pearson = _figures(_normalised(self._comoment)[upper].abs(), often)
        return CorrelationResult(*cosine, *pearson)


def _normalised(matrix: Tensor) -> Tensor:
    square = matrix.diagonal()
    inverse = torch.where(square > 0, square.rsqrt(), 0)
    return matrix * inverse[:, None] * inverse


def _figures(score: Tensor, often: Tensor) -> tuple[float, float, float, float]:
    rank = score.numel() - int(0.999 * (score.numel() - 1))  # numpy's "lower" quantile, without its size limit
    p999 = score.topk(rank, sorted=False).values.min()
    peak_often = score[often].max() if bool(often.any()) else score.new_zeros(())
    return float(score.max()), float(peak_often), float(score.mean()), float(p999)
