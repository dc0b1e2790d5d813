"""Mean and quantiles of |C| over all P pairs, without P numbers."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sleave.dependence.pairs import num_pairs

QUANTILES = (0.5, 0.9, 0.99, 0.999, 0.9999)


class AllPairs:
    """|C| of every pair: listed for pairs that fire together; of any other, the product of two numbers.

    Two features that never fire together have |C_ij| = share_i share_j, with share = |mean| sqrt(N) / norm (0 for the
    cosine, which subtracts no mean). How many pairs lie above a number is then a matter of sorted lists, and a
    quantile is found by bisection over the numbers that a float can be: exactly, but for the rounding of the products.

    Args:
        score: |C| of the listed pairs, in float64.
        product: share_i share_j of the same pairs.
        share: of each feature.
    """

    def __init__(
        self, score: Float[Tensor, " listed"], product: Float[Tensor, " listed"], share: Float[Tensor, " d_sae"]
    ) -> None:
        self.num_pairs = num_pairs(len(share))
        self._score = np.sort(score.numpy())
        self._share = np.sort(share[share > 0].numpy())
        self._product = np.sort(product.numpy()) if len(self._share) else np.empty(0)

    def mean(self) -> float:
        """The mean."""
        total, squares = float(self._share.sum()), float(np.square(self._share).sum())
        apart = (total**2 - squares) / 2 - float(self._product.sum())
        return (float(self._score.sum()) + max(apart, 0.0)) / self.num_pairs

    def quantile(self, q: float) -> float:
        """The q-quantile: of two scores that it may lie between, the lower."""
        return self._ranked(int(q * (self.num_pairs - 1)))

    @cached_property
    def peak(self) -> float:
        """The largest."""
        return self._ranked(self.num_pairs - 1)

    def _ranked(self, rank: int) -> float:
        """The score of a rank, from 0: the least number with no more than P - 1 - rank scores above it."""
        above = self.num_pairs - 1 - rank
        if not len(self._share):  # all others are 0
            return float(self._score[-1 - above]) if above < len(self._score) else 0.0
        low, high = -1, _bits(2.0)  # floats of one sign are in the order of their bits
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._above(_number(middle)) <= above else (middle, high)
        return _number(high)

    def _above(self, threshold: float) -> int:
        """How many pairs have more."""
        listed = _beyond(self._score, threshold) - _beyond(self._product, threshold)
        share = self._share[np.searchsorted(self._share, threshold / self._share[-1]) :]
        partners = len(self._share) - np.searchsorted(self._share, threshold / share, side="right")
        with_itself = int((share > threshold / share).sum())
        return listed + (int(partners.sum()) - with_itself) // 2


def _beyond(ascending: NDArray[np.float64], threshold: float) -> int:
    return len(ascending) - int(np.searchsorted(ascending, threshold, side="right"))


def _bits(number: float) -> int:
    return int(np.float64(number).view(np.int64))


def _number(bits: int) -> float:
    return float(np.int64(bits).view(np.float64)) if bits >= 0 else -1.0
