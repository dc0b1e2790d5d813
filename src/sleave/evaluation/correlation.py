"""How correlated features are, over all P pairs, and how much of that chance alone would give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sleave.base.errors import NotEnoughMemory
from sleave.codes.codes import Codes, row_starts
from sleave.dependence.coactivation import dots
from sleave.dependence.pairs import argsort_unique
from sleave.dependence.selection import coactivations_are_few
from sleave.evaluation.all_pairs import QUANTILES, AllPairs
from sleave.evaluation.limits import OFTEN

WIDEST = 16_384  # d_sae; at the end about 40 bytes are held for each of d_sae^2 numbers, here 11 GB
TAIL = 0.999


@dataclass(frozen=True)
class CorrelationResult:
    """|C| over all P = d_sae (d_sae - 1) / 2 pairs, zeros included.

    The *floor* is the same figure once each feature's column has been turned round by a random number of rows: every
    feature still fires as often and as strongly, and in bursts as long, and nothing is left of what two have in common.

    Attributes:
        peak_cosine: the largest |cosine|; it may be that of two features that fire once, together.
        peak_cosine_often: the largest among pairs that fire together on at least 10 rows.
        mean_cosine: the mean.
        p50_cosine, p90_cosine, p99_cosine, p999_cosine, p9999_cosine: quantiles, 0.5 to 0.9999.
        excess_mean_cosine, excess_p999_cosine: mean and 99.9th percentile, each less its floor.
        peak_pearson, ...: the same of the centred correlation.
    """

    peak_cosine: float
    peak_cosine_often: float
    mean_cosine: float
    p50_cosine: float
    p90_cosine: float
    p99_cosine: float
    p999_cosine: float
    p9999_cosine: float
    excess_mean_cosine: float
    excess_p999_cosine: float
    peak_pearson: float
    peak_pearson_often: float
    mean_pearson: float
    p50_pearson: float
    p90_pearson: float
    p99_pearson: float
    p999_pearson: float
    p9999_pearson: float
    excess_mean_pearson: float
    excess_p999_pearson: float


def correlation(codes: Codes, floor: Codes) -> CorrelationResult:
    """The correlation of codes, given the same codes `turned` (or the same rows of both).

    Where little fires together, that is listed, and everything else is known from two numbers a feature; otherwise the
    centred Gram matrix of all features is added up, whose memory grows with d_sae^2.

    Reference: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", Eq. (2.1).

    Raises:
        NotEnoughMemory: too much fires together in a dictionary of more than 16,384 features.
    """
    figures: list[float] = []
    for (pairs, often), (chance, _) in zip(_measured(codes), _measured(floor), strict=True):
        figures += [pairs.peak, often, pairs.mean(), *map(pairs.quantile, QUANTILES)]
        figures += [pairs.mean() - chance.mean(), pairs.quantile(TAIL) - chance.quantile(TAIL)]
    return CorrelationResult(*figures)


def turned(codes: Codes, seed: int = 0) -> Codes:
    """Each feature's column turned round by a random number of rows of its own."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(codes.rows, (codes.d_sae,), generator=generator)
    row = (codes.row + shift[codes.feature]) % codes.rows
    order = argsort_unique(row * codes.d_sae + codes.feature)
    return Codes(codes.d_sae, row_starts(row, codes.rows), codes.feature[order], codes.value[order])


def _measured(codes: Codes) -> Iterator[tuple[AllPairs, float]]:
    """|cosine| and then |Pearson| of all pairs, each with the largest of pairs that fire together often."""
    return _from_coactivations(codes) if coactivations_are_few(codes) else _densely(codes)


def _from_coactivations(codes: Codes) -> Iterator[tuple[AllPairs, float]]:
    codes = codes.with_value(codes.value.double())
    i, j, together, dot = dots(codes)
    often = together >= OFTEN
    for centred in (False, True):
        mean, inverse = codes.moments(centred)
        score = ((dot - codes.rows * mean[i] * mean[j]) * inverse[i] * inverse[j]).abs()
        share = mean.abs() * inverse * codes.rows**0.5
        yield AllPairs(score, share[i] * share[j], share), _peak_often(score, often)


def _densely(codes: Codes) -> Iterator[tuple[AllPairs, float]]:
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
    for matrix in (comoment.addr(mean, mean, alpha=rows), comoment):
        score = _normalised(matrix)[upper].abs()
        yield AllPairs(score, torch.zeros_like(score), mean.new_zeros(d_sae)), _peak_often(score, often)


def _normalised(matrix: Tensor) -> Tensor:
    square = matrix.diagonal()
    inverse = torch.where(square > 0, square.rsqrt(), 0)
    return matrix * inverse[:, None] * inverse


def _peak_often(score: Tensor, often: Tensor) -> float:
    return float(score[often].max()) if bool(often.any()) else 0.0
