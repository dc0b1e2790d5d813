"""Pairs of features (i, j) with i < j, and how many there are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.codes.compiled import compiled, on_cpu
from sleave.dependence import pair_kernels


@dataclass(frozen=True)
class Pairs:
    """A set of pairs, in the order of (i, j). `Pairs.of` puts them in it; out of it, penalties take longer.

    Attributes:
        i, j: feature indices, i < j.
        score: the strength of the pair's dependence: |C| for a correlation, nats for mutual information.
    """

    i: Int[Tensor, " pairs"]
    j: Int[Tensor, " pairs"]
    score: Float[Tensor, " pairs"]

    @classmethod
    def of(cls, i: Int[Tensor, " n"], j: Int[Tensor, " n"], score: Float[Tensor, " n"]) -> Pairs:
        """Pairs that come in any order, each once."""
        if _in_order(i, j):  # as most come
            return cls(i, j, score)
        order = argsort_unique((i << 32) + j, in_runs=True)
        return cls(i[order], j[order], score[order])

    def __len__(self) -> int:
        return self.i.numel()

    @cached_property
    def num_features(self) -> int:
        """How many different features the pairs touch."""
        touched = torch.zeros(self.width, dtype=torch.bool, device=self.i.device)
        touched[self.i] = True
        touched[self.j] = True
        return int(touched.sum())

    @cached_property
    def figures(self) -> dict[str, float]:
        """How many pairs and features there are, and the largest, mean and least score."""
        counts = {"pairs": float(len(self)), "unique_features": float(self.num_features)}
        if len(self) == 0:
            return counts
        return counts | {
            "peak": float(self.score.max()),
            "mean": float(self.score.mean()),
            "least": float(self.score.min()),
        }

    @cached_property
    def width(self) -> int:
        """One more than the largest feature that a pair names: no dictionary of theirs is narrower."""
        return 1 + int(self.j.max()) if len(self) else 0

    @cached_property
    def _ordered(self) -> bool:
        return _in_order(self.i, self.j)

    @cached_property
    def _both_ways(self) -> tuple[Tensor, Tensor, Tensor]:
        lower, upper = (torch.bincount(k, minlength=self.width) for k in (self.j, self.i))
        start = torch.cat([lower.new_zeros(1), (lower + upper).cumsum(0)])
        if on_cpu(self.i) and self._ordered:
            return start, *compiled(pair_kernels.both_ways, self.i, self.j, start, lower, torch.get_num_threads())
        return start, *reference_both_ways(self.i, self.j)

    def neighbours(self, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
        """Who is paired with each feature.

        Returns:
            start: (d_sae + 1,) where each feature's partners begin;
            partner: (2 pairs,) ascending within a feature, int32;
            number: (2 pairs,) which pair that is.
        """
        start, partner, number = self._both_ways
        return torch.cat([start, start[-1:].expand(d_sae - self.width)]), partner, number

    def of_neighbours(self, value: Float[Tensor, " pairs"]) -> Float[Tensor, " twice_pairs"]:
        """A number of each pair, where `neighbours` has the pair; of the numbers that were given last, kept."""
        last = self.__dict__.get("_of_neighbours")
        if last is None or last[0] is not value or last[1] != value._version:
            last = self.__dict__["_of_neighbours"] = (value, value._version, value[self._both_ways[2]])
        both: Tensor = last[2]
        return both

    @cached_property
    def _keys(self) -> tuple[Tensor, Tensor]:
        """Ascending keys, with one at the end that is above all, and which pair each is of."""
        key, number = ((self.i << 32) + self.j).sort()
        return torch.cat([key, key.new_full((1,), torch.iinfo(key.dtype).max)]), number

    def find(self, i: Int[Tensor, " n"], j: Int[Tensor, " n"]) -> tuple[Int[Tensor, " found"], Int[Tensor, " found"]]:
        """Where (i, j) names a pair that is in here, and which one."""
        (keys, number), wanted = self._keys, (i << 32) + j
        place = torch.searchsorted(keys, wanted)
        at = (keys[place] == wanted).nonzero().flatten()
        return at, number[place[at]]

    def strongest(self, count: int) -> Pairs:
        """So many pairs with the largest scores; of equal ones, the first in the order of (i, j)."""
        if count >= len(self):
            return self
        if count < 1:
            return self.where(torch.zeros_like(self.i, dtype=torch.bool))
        least = largest(self.score, count)
        keep = self.score > least
        keep[(self.score == least).nonzero().flatten()[: count - int(keep.sum())]] = True
        return self.where(keep)

    def where(self, keep: Bool[Tensor, " pairs"]) -> Pairs:
        """Some of them."""
        kept = keep.nonzero().flatten()
        return Pairs(self.i[kept], self.j[kept], self.score[kept])

    def ranked(self) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"], Float[Tensor, " pairs"]]:
        """(i, j, score) with the largest score first; equal ones in the order of (i, j)."""
        order = torch.argsort(self.score, stable=True, descending=True)
        return self.i[order], self.j[order], self.score[order]

    def jaccard(self, other: Pairs) -> float:
        """|A and B| / |A or B| of two choices of pairs; 1 for two empty ones."""
        if on_cpu(self.i) and self._ordered and other._ordered:
            both = compiled(pair_kernels.shared, self.i, self.j, other.i, other.j, torch.get_num_threads())
        else:
            keys = torch.cat([(self.i << 32) + self.j, (other.i << 32) + other.j]).sort().values
            both = int(torch.count_nonzero(keys[1:] == keys[:-1]))
        either = len(self) + len(other) - both
        return both / either if either else 1.0


def _in_order(i: Tensor, j: Tensor) -> bool:
    if on_cpu(i):
        return not compiled(pair_kernels.out_of_order, i, j)
    key = (i << 32) + j
    return bool((key[1:] > key[:-1]).all())


def reference_both_ways(i: Int[Tensor, " n"], j: Int[Tensor, " n"]) -> tuple[Tensor, Tensor]:
    """Partners and pair numbers of each feature in turn: the plain torch reference, for any device."""
    feature, partner = torch.cat([i, j]), torch.cat([j, i])
    order = argsort_unique((feature << 32) + partner)
    return partner[order].int(), order % max(1, len(i))


def largest(x: Float[Tensor, " n"], count: int) -> float:
    """The count-th largest of some numbers."""
    return at_ranks(x, [x.numel() - count])[0]


def at_ranks(x: Float[Tensor, " n"], ranks: list[int]) -> list[float]:
    """The numbers that would be at these places, from 0, if all were sorted."""
    if on_cpu(x):
        found: list[float] = np.partition(x.numpy(), ranks)[ranks].tolist() if ranks else []  # several times faster
        return found
    ordered: list[float] = x.sort().values[ranks].tolist()
    return ordered


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


def argsort_unique(key: Int[Tensor, " n"], in_runs: bool = False) -> Int[Tensor, " n"]:
    """The order of numbers that all differ; by numpy on a CPU, several times faster where it has the instructions.

    Args:
        key: the numbers.
        in_runs: whether they are a few runs that are in order already, which a stable sort merges.
    """
    if not on_cpu(key):
        return torch.argsort(key)
    return torch.from_numpy(np.argsort(key.numpy(), kind="stable" if in_runs else None))
