"""How correlated features are, over all P pairs, and how much of that chance alone would give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sleave.base.errors import NotEnoughMemory
from sleave.base.progress import Advance, progress
from sleave.codes.codes import Codes, row_starts
from sleave.dependence.coactivation import dots
from sleave.dependence.pairs import argsort_unique
from sleave.dependence.selection import coactivations_are_few
from sleave.evaluation.all_pairs import QUANTILES, AllPairs
from sleave.evaluation.limits import OFTEN

WIDEST = 16_384  # d_sae; at the end about 50 bytes are held for each of d_sae^2 numbers, here 14 GB
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
    """The correlation of codes, given the same codes `turned`; see `correlations`."""
    return correlations(codes, floor, torch.zeros(codes.rows, dtype=torch.int64))[0]


def correlations(codes: Codes, floor: Codes, group: Int64[Tensor, " rows"]) -> list[CorrelationResult]:
    """The correlation of codes, given the same codes `turned`; then, of several groups of rows, without each in turn.

    Where little fires together, that is listed, and everything else is known from two numbers a feature. Otherwise the
    centred Gram matrix of all features is added up, whose memory grows with d_sae^2; what a group has added to it is
    taken off again, so that all groups, each left out, cost no more than all rows.

    Reference: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", Eq. (2.1).

    Raises:
        NotEnoughMemory: too much fires together in a dictionary of more than 16,384 features.
    """
    groups = group.unique().tolist()
    left_out = groups if len(groups) > 1 else []
    with progress("Correlation of all pairs", 2 * (1 + len(left_out)), "passes") as advance:
        # One after the other: no more than one Gram matrix at a time.
        of_codes, of_floor = (list(_measured(part, group, groups, left_out, advance)) for part in (codes, floor))
    return [_result(*both) for both in zip(of_codes, of_floor, strict=True)]


def _result(codes: list[_Measured], floor: list[_Measured]) -> CorrelationResult:
    figures: list[float] = []
    for measured, chance in zip(codes, floor, strict=True):
        figures += [measured.peak, measured.peak_often, measured.mean, *measured.quantiles]
        figures += [measured.mean - chance.mean, measured.tail - chance.tail]
    return CorrelationResult(*figures)


def turned(codes: Codes, seed: int = 0) -> Codes:
    """Each feature's column turned round by a random number of rows of its own."""
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randint(codes.rows, (codes.d_sae,), generator=generator)
    row = (codes.row + shift[codes.feature]) % codes.rows
    order = argsort_unique(row * codes.d_sae + codes.feature)
    return Codes(codes.d_sae, row_starts(row, codes.rows), codes.feature[order], codes.value[order])


class _Measured:
    """The figures of |cosine|, or of |Pearson|, over all pairs."""

    def __init__(self, pairs: AllPairs, often: Float[Tensor, " some"]) -> None:
        self.peak, self.mean = pairs.peak, pairs.mean()
        self.peak_often = float(often.max()) if len(often) else 0.0
        self.quantiles = [pairs.quantile(q) for q in QUANTILES]
        self.tail = self.quantiles[QUANTILES.index(TAIL)]


def _measured(
    codes: Codes, group: Tensor, groups: list[int], left_out: list[int], advance: Advance
) -> Iterator[list[_Measured]]:
    """Of |cosine| and of |Pearson|: of all rows, then without each group that is to be left out."""
    if coactivations_are_few(codes):
        yield _from_coactivations(codes)
        advance(1, "")
        for number in left_out:
            yield _from_coactivations(codes.at_rows(group != number))
            advance(1, "")
        return
    if codes.d_sae > WIDEST:
        raise NotEnoughMemory(
            f"{codes.coactivations:,} co-activations of {codes.d_sae:,} features (= d_sae) are too many to list, and "
            f"above {WIDEST:,} features a matrix of all pairs is too large."
        )
    whole = _Moments(codes.d_sae)
    for number in groups:
        whole.add(_moments(codes.at_rows(group == number)))
    yield whole.measured()
    advance(1, "")
    for number in left_out:
        part = _moments(codes.at_rows(group == number))  # again, and the same to the last bit: nothing is left of it
        whole.remove(part)
        yield whole.measured()
        advance(1, "")
        whole.add(part)


def _from_coactivations(codes: Codes) -> list[_Measured]:
    codes = codes.with_value(codes.value.double())
    i, j, together, dot = dots(codes)
    measured = []
    for centred in (False, True):
        mean, inverse = codes.moments(centred)
        score = ((dot - codes.rows * mean[i] * mean[j]) * inverse[i] * inverse[j]).abs()
        share = mean.abs() * inverse * codes.rows**0.5
        measured.append(_Measured(AllPairs(score, share[i] * share[j], share), score[together >= OFTEN]))
    return measured


def _moments(codes: Codes) -> _Moments:
    moments = _Moments(codes.d_sae)
    for acts in codes.dense_blocks():
        moments.add_rows(acts)
    return moments


class _Moments:
    """Of all features on some rows: means, centred Gram matrix in float64, on how many rows each two fire together."""

    def __init__(self, d_sae: int) -> None:
        self.rows = 0
        self.mean = torch.zeros(d_sae, dtype=torch.float64)
        self.comoment = torch.zeros(d_sae, d_sae, dtype=torch.float64)
        self.together = torch.zeros(d_sae, d_sae)

    def add(self, other: _Moments) -> None:
        """Those of more rows."""
        self._combine(1, other.rows, other.mean, other.comoment, other.together)

    def add_rows(self, acts: Float[Tensor, "rows d_sae"]) -> None:
        """Those of these rows."""
        fires = (acts > 0).to(acts.dtype)
        mean = acts.mean(dim=0, dtype=torch.float64)
        centred = (acts - mean).to(acts.dtype)
        self._combine(1, len(acts), mean, centred.t() @ centred, fires.t() @ fires)

    def remove(self, other: _Moments) -> None:
        """Those of rows that were added."""
        self._combine(-1, other.rows, other.mean, other.comoment, other.together)

    def _combine(self, sign: int, rows: int, mean: Tensor, comoment: Tensor, together: Tensor) -> None:
        left, delta = self.rows + sign * rows, mean - self.mean
        share = sign * rows / max(left, 1)
        self.comoment.add_(comoment, alpha=sign).addr_(delta, delta, alpha=self.rows * share)
        self.together.add_(together, alpha=sign)
        self.mean += delta * share
        self.rows = left

    def measured(self) -> list[_Measured]:
        """The figures of |cosine| and of |Pearson|."""
        upper = torch.ones_like(self.together, dtype=torch.bool).triu_(diagonal=1)
        often = self.together[upper] >= OFTEN
        raw = self.comoment.addr(self.mean, self.mean, alpha=self.rows)
        fires = self.together.diagonal() > 0  # once rows are removed, a little is left of what fired in them alone
        least = torch.where(fires, 1e-12 * raw.diagonal(), torch.inf)  # of a constant feature, rounding is left
        measured = []
        for matrix in (raw, self.comoment):
            square = matrix.diagonal()
            inverse = torch.where(square > least, square.rsqrt(), 0)
            score = (matrix * inverse[:, None]).mul_(inverse)[upper].abs_()
            measured.append(
                _Measured(AllPairs(score, torch.zeros_like(score), torch.zeros_like(inverse)), score[often])
            )
        return measured
