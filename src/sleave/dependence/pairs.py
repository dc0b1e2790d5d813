"""Pairs of features (i, j) with i < j, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sleave.base.errors import SleaveError


@dataclass(frozen=True)
class Pairs:
    """Chosen pairs, sorted by (score descending, i, j).

    Attributes:
        i, j: feature indices, i < j.
        score: the strength of the pair's dependence: |C| for a correlation, nats for mutual information.
    """

    i: Int[Tensor, " pairs"]
    j: Int[Tensor, " pairs"]
    score: Float[Tensor, " pairs"]

    def __len__(self) -> int:
        return self.i.numel()

    @cached_property
    def num_features(self) -> int:
        """How many different features the pairs touch."""
        return int(torch.cat([self.i, self.j]).unique().numel())

    @cached_property
    def width(self) -> int:
        """One more than the largest feature that a pair names: no dictionary of theirs is narrower."""
        return 1 + int(self.j.max()) if len(self) else 0

    @cached_property
    def _both_ways(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        feature, partner = torch.cat([self.i, self.j]), torch.cat([self.j, self.i])
        order = argsort_unique((feature << 32) + partner)
        feature, partner = feature[order], partner[order]
        listed = (order % max(1, len(self)))[feature < partner]
        number = torch.empty_like(listed)
        number[listed] = torch.arange(len(self), device=listed.device)
        return feature, partner, number[order % max(1, len(self))], listed

    def neighbours(self, d_sae: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Who is paired with each feature.

        Returns:
            start: (d_sae + 1,) where each feature's partners begin;
            partner: (2 pairs,) ascending within a feature;
            number: (2 pairs,) which pair that is, counted in the order of (i, j);
            order: (pairs,) where the pair of each number is listed here.
        """
        feature, partner, number, order = self._both_ways
        start = torch.searchsorted(feature, torch.arange(d_sae + 1, device=feature.device))
        return start, partner, number, order

    def first(self, count: int) -> Pairs:
        """The strongest so many."""
        return Pairs(self.i[:count], self.j[:count], self.score[:count])

    def jaccard(self, other: Pairs) -> float:
        """|A and B| / |A or B| of two choices of pairs; 1 for two empty ones."""
        width = max(self.width, other.width)
        a, b = self.i * width + self.j, other.i * width + other.j
        keys = torch.cat([a, b])
        keys = torch.from_numpy(np.sort(keys.numpy())) if keys.device.type == "cpu" else keys.sort().values
        both = int((keys[1:] == keys[:-1]).sum())
        either = len(self) + len(other) - both
        return both / either if either else 1.0


def num_pairs(d_sae: int) -> int:
    """P = d_sae (d_sae - 1) / 2, the number of pairs, zeros included."""
    return d_sae * (d_sae - 1) // 2


def check_coactivations(min_coactivations: int, shrinkage: float) -> None:
    """Refuse negative numbers of rows.

    Raises:
        SleaveError: one is negative.
    """
    if min_coactivations < 0 or not shrinkage >= 0:
        raise SleaveError(
            f"`min_coactivations` (= {min_coactivations}) and `shrinkage` (= {shrinkage}) must not be negative."
        )


def top_count(top: float, d_sae: int) -> int:
    """How many pairs the top fraction of all P pairs is: round(top P), and at least one.

    Raises:
        SleaveError: `top` is not in (0, 1], or there is no pair at all.
    """
    if not 0 < top <= 1:
        raise SleaveError(f"`top` (= {top}) must be in (0, 1]: the share of all pairs to choose, 0.001 for 0.1%.")
    if d_sae < 2:
        raise SleaveError(f"`d_sae` (= {d_sae}) must be at least 2 for there to be a pair.")
    return max(1, round(top * num_pairs(d_sae)))


def unrank(rank: Int[Tensor, " n"], d_sae: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """The (i, j) at each place of the lexicographic order (0,1), (0,2), ..., (d_sae-2, d_sae-1)."""
    first = torch.arange(d_sae, dtype=torch.int64, device=rank.device)
    starts = first * (2 * d_sae - first - 1) // 2  # rank of (i, i+1)
    i = torch.searchsorted(starts, rank, right=True) - 1
    i = i.clamp(max=d_sae - 2)
    return i, rank - starts[i] + i + 1


def chunks(count: int, width: int, budget: int = 1 << 18) -> list[slice]:
    """Slices of `count` things so that a slice times `width` numbers stays within `budget` (a core's cache)."""
    size = max(1, budget // max(1, width))
    return [slice(s, min(s + size, count)) for s in range(0, count, size)] if count else []


def sorted_pairs(i: Int[Tensor, " n"], j: Int[Tensor, " n"], score: Float[Tensor, " n"]) -> Pairs:
    """Pairs in their order: the larger score first, then the smaller i, then the smaller j."""
    key = (i << 32) + j
    if bool((key[1:] <= key[:-1]).any()):  # most come in order
        order = argsort_unique(key)
        i, j, score = i[order], j[order], score[order]
    order = torch.argsort(score, stable=True, descending=True)
    return Pairs(i[order], j[order], score[order])


def argsort_unique(key: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """The order of numbers that all differ; by numpy on a CPU, several times faster where it has the instructions."""
    return torch.from_numpy(np.argsort(key.numpy())) if key.device.type == "cpu" else torch.argsort(key)
