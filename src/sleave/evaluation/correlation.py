"""How correlated features are, over all P pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.base.errors import NotEnoughMemory
from sleave.codes.codes import Codes, as_codes
from sleave.dependence.coactivation import dots
from sleave.dependence.pairs import num_pairs
from sleave.dependence.scores import unlisted
from sleave.dependence.selection import coactivations_are_few

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
    """Accumulates codes, keeping only what fires.

    Where little fires together, that is listed, and everything else is known from two numbers a feature; otherwise the
    centred Gram matrix of all features is added up, whose memory grows with d_sae^2.

    Reference: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", Eq. (2.1).
    """

    def __init__(self) -> None:
        self._codes: list[Codes] = []

    def update(self, acts: Float[Tensor, "batch d_sae"] | Codes) -> None:
        """Add a batch."""
        if len(acts):
            self._codes.append(as_codes(acts))

    def compute(self) -> CorrelationResult:
        """The result so far.

        Raises:
            NotEnoughMemory: too much fires together in a dictionary of more than 16,384 features.
        """
        codes = Codes.cat(self._codes)
        return CorrelationResult(*(_from_coactivations(codes) if coactivations_are_few(codes) else _densely(codes)))


def _from_coactivations(codes: Codes) -> Iterator[float]:
    codes = codes.with_value(codes.value.double())
    i, j, together, dot = dots(codes)
    often = together >= OFTEN
    pairs = num_pairs(codes.d_sae)
    rank = pairs - int(0.999 * (pairs - 1))
    for centred in (False, True):
        mean, inverse = codes.moments(centred)
        score = ((dot - codes.rows * mean[i] * mean[j]) * inverse[i] * inverse[j]).abs()
        share = mean.abs() * inverse * codes.rows**0.5  # two that never fire together have |C| = share_i share_j
        apart = (float(share.sum()) ** 2 - float(share.square().sum())) / 2 - float((share[i] * share[j]).sum())
        others = _largest_apart(i, j, share, _rank(score, rank))
        ranked = torch.cat([score, others])
        mean_score = (float(score.sum()) + max(apart, 0.0)) / pairs
        yield from (_rank(ranked, 1), _peak_often(score, often), mean_score, _rank(ranked, rank))


def _largest_apart(i: Tensor, j: Tensor, share: Tensor, least: float) -> Tensor:
    """share_i share_j of the pairs that are not listed, where it is above a number."""
    if share.max() == 0:
        return share.new_zeros(0)
    some = (share * share.max() > least).nonzero().flatten()
    if len(some) < 2:
        return share.new_zeros(0)
    place = torch.full((len(share),), -1).index_put((some,), torch.arange(len(some)))
    kept = (place[i] >= 0) & (place[j] >= 0)
    own = share[some]
    a, b = unlisted(place[i[kept]], place[j[kept]], len(some), lambda rows: own[rows, None] * own > least)
    return own[a] * own[b]


def _densely(codes: Codes) -> Iterator[float]:
    d_sae = codes.d_sae
    if d_sae > WIDEST:
        raise NotEnoughMemory(
            f"{codes.coactivations:,} co-activations of {d_sae:,} features (= d_sae) are too many to list, and above "
            f"{WIDEST:,} features a matrix of all pairs is too large."
        )
    comoment, together = torch.zeros(d_sae, d_sae, dtype=torch.float64), torch.zeros(d_sae, d_sae)
    mean, rows = torch.zeros(d_sae, dtype=torch.float64), 0
    for acts in codes.dense_blocks():
        fires = (acts > 0).to(acts.dtype)
        together += fires.t() @ fires
        own = acts.mean(dim=0, dtype=torch.float64)
        centred = (acts - own).to(acts.dtype)
        delta = own - mean
        comoment += centred.t() @ centred
        comoment.addr_(delta, delta, alpha=rows * len(acts) / (rows + len(acts)))
        rows += len(acts)
        mean += delta * (len(acts) / rows)
    upper = torch.ones_like(together, dtype=torch.bool).triu_(diagonal=1)
    often = together[upper] >= OFTEN
    pairs = num_pairs(d_sae)
    for matrix in (comoment.addr(mean, mean, alpha=rows), comoment):
        score = _normalised(matrix)[upper].abs()
        rank = pairs - int(0.999 * (pairs - 1))
        yield from (float(score.max()), _peak_often(score, often), float(score.mean()), _rank(score, rank))


def _normalised(matrix: Tensor) -> Tensor:
    square = matrix.diagonal()
    inverse = torch.where(square > 0, square.rsqrt(), 0)
    return matrix * inverse[:, None] * inverse


def _peak_often(score: Tensor, often: Tensor) -> float:
    return float(score[often].max()) if bool(often.any()) else 0.0


def _rank(score: Tensor, rank: int) -> float:
    """The score of a rank, counted from the largest, where scores that are not listed are smaller (or 0)."""
    return float(score.topk(rank, sorted=False).values.min()) if rank <= score.numel() else 0.0
