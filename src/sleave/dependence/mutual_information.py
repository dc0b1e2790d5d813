"""Mutual information between features: one interface to every estimator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from sleave.base.errors import SleaveError, check_one_of
from sleave.codes.codes import Codes
from sleave.dependence.atoms import MOST_BINS, cut
from sleave.dependence.information import Baseline, information_scores
from sleave.dependence.kde import FACTOR, check_factor, check_scale, kde_all_pairs
from sleave.dependence.scores import PairScores, check_memory, with_every_pair

Estimator = Literal["atoms", "activity", "kde"]


@dataclass(frozen=True)
class Estimation:
    """How mutual information is estimated: the arguments of `mutual_information`, which says what each is."""

    estimator: str = "atoms"
    bins: int = 16
    baseline: str = "permutation"
    bandwidth_factor: float = FACTOR
    bandwidth_scale: str = "absolute"

    def __post_init__(self) -> None:
        check_one_of("estimator", self.estimator, get_args(Estimator))
        check_one_of("baseline", self.baseline, get_args(Baseline))
        if not 1 <= self.bins <= MOST_BINS:
            raise SleaveError(
                f"`bins` (= {self.bins}) must be in 1..{MOST_BINS}: the most bins for a feature's active values."
            )
        check_factor(self.bandwidth_factor)
        check_scale(self.bandwidth_scale)


@torch.no_grad()
def mutual_information(
    acts: Tensor | Codes,
    estimator: str = "atoms",
    *,
    bins: int = 16,
    baseline: str = "permutation",
    bandwidth_factor: float = FACTOR,
    bandwidth_scale: str = "absolute",
) -> PairScores:
    """Mutual information of every pair of features, in nats.

    >>> import torch
    >>> fires = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).repeat(500, 1)
    >>> scores = mutual_information(fires, "activity", baseline="none")
    >>> scores.to_dense()[0, 1:]  # ln 2: each feature tells all of the other
    tensor([0.6931, 0.6931], dtype=torch.float64)

    Args:
        acts: (batch, d_sae) codes, or `Codes` for wide dictionaries of which little fires.
        estimator: `atoms`: zero is an atom of its own and the active values lie in bins of equal count; `activity`: a
            feature is on or off; `kde`: the MI-Ortho paper's Gaussian product kernel estimate, exact and most of it
            bias (0.8 nats between independent Gaussians at 2048 rows).
        bins: of `atoms`, the most bins for a feature's active values; one that fires on n rows has sqrt(n) / 2.
        baseline: of `atoms` and `activity`, what is subtracted. `permutation`: the exact mean over all permutations of
            the rows, so that independent features score 0 on average; `shift`: the information left when one of the
            two is shifted by half the rows, a single noisy draw of the same; `none`.
        bandwidth_factor: of `kde`, the bandwidth is factor * N^(-1/5).
        bandwidth_scale: of `kde`, `absolute` (the paper's formula has no deviation in it) or `std`.

    Returns:
        scores whose `.quantile(q)`, `.mean()`, `.top(fraction)` and `.to_dense()` speak of all P pairs.

    Raises:
        SleaveError: NaN or infinite codes, fewer than 2 rows or features, an unknown name, a bandwidth that is not
            positive, or more memory than there is.

    Reference: *MI-Ortho*, Eq. (8), for `kde`; docs/methods.md for the others.
    """
    how = Estimation(estimator, bins, baseline, bandwidth_factor, bandwidth_scale)
    codes = acts if isinstance(acts, Codes) else Codes.from_dense(acts)
    with torch.autocast(codes.device.type, enabled=False):  # it would round counts
        return _scores(codes, how)


def _scores(codes: Codes, how: Estimation) -> PairScores:
    if how.estimator == "kde":
        needed = 40.0 * codes.d_sae**2 + 16.0 * int(codes.fired.max()) ** 2 + 16.0 * codes.rows * codes.d_sae
        what = f"The kernel density estimate of all pairs of {codes.d_sae:,} features on {codes.rows:,} rows"
        check_memory(needed, what, "Use the estimator 'atoms', which needs no matrix, or fewer rows.")
        dense = codes.to_dense()
        fires = (dense != 0).float()
        scores = kde_all_pairs(dense, how.bandwidth_factor, how.bandwidth_scale)
        return with_every_pair(scores, (fires.t() @ fires).long())
    return information_scores(cut(codes, how.bins if how.estimator == "atoms" else 1), cast(Baseline, how.baseline))
