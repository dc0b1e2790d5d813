"""One number for each of all P pairs, kept so that P numbers are never needed."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sleave.base.environment import free_memory
from sleave.base.errors import NotEnoughMemory, SleaveError
from sleave.codes.compiled import compiled, on_cpu
from sleave.dependence import pair_kernels
from sleave.dependence.pairs import Pairs, at_ranks, num_pairs

MOST_LISTED = 100_000_000  # pairs; a list of more is 2.4 GB and of no use to anyone


@dataclass(frozen=True, eq=False)
class PairScores:
    """A score for every pair: listed for pairs that fire together, a function of two groups for all others.

    Two features that never fire together share nothing but how often each fires, so their score depends on that
    alone: features that fire equally often form a group.

    Attributes:
        d_sae: how many features there are.
        i, j: the pairs that are listed, i < j, each once, in the order of (i, j).
        score: theirs.
        together: on how many rows both features of a listed pair fire.
        group: the group of each feature.
        apart: the score of two features, by their groups, if the pair is not listed.
    """

    d_sae: int
    i: Int[Tensor, " listed"]
    j: Int[Tensor, " listed"]
    score: Float[Tensor, " listed"]
    together: Int[Tensor, " listed"]
    group: Int[Tensor, " d_sae"]
    apart: Float[Tensor, "groups groups"]

    def __repr__(self) -> str:
        return f"PairScores({self.num_pairs:,} pairs, {len(self.i):,} that fire together, mean {self.mean():.3g})"

    @property
    def num_pairs(self) -> int:
        """P = d_sae (d_sae - 1) / 2."""
        return num_pairs(self.d_sae)

    def to_dense(self) -> Float[Tensor, "d_sae d_sae"]:
        """The symmetric matrix, with zeros on its diagonal.

        Raises:
            SleaveError: it would not fit into memory.
        """
        what = f"A dense matrix of {self.d_sae:,} x {self.d_sae:,} scores"
        check_memory(8 * self.d_sae**2, what, "Use `.top()` or `.quantile()` instead.", self.score.device)
        dense = self.apart[self.group][:, self.group]
        dense[self.i, self.j] = self.score
        dense[self.j, self.i] = self.score
        return dense.fill_diagonal_(0)

    def mean(self) -> float:
        """The mean over all P pairs."""
        value, count = self._unlisted
        return (float(self.score.sum()) + float((value * count).sum())) / self.num_pairs

    def quantile(self, q: float) -> float:
        """The exact q-quantile over all P pairs, between two scores by linear interpolation (as numpy.quantile).

        Raises:
            SleaveError: q is not in (0, 1).
        """
        return self.quantiles(q)[0]

    def quantiles(self, *qs: float) -> list[float]:
        """The same of several q, in less time than one after the other.

        Raises:
            SleaveError: one is not in (0, 1).
        """
        for q in qs:
            if not 0 < q < 1:
                raise SleaveError(f"`q` (= {q}) must be in (0, 1): 0.9 for the 90th percentile.")
        places = [q * (self.num_pairs - 1) for q in qs]
        low = [int(place) for place in places]
        found = self._ranked(*low, *(min(rank + 1, self.num_pairs - 1) for rank in low))
        return [
            below + (place - rank) * (above - below)
            for place, rank, below, above in zip(places, low, found[: len(qs)], found[len(qs) :], strict=True)
        ]

    def peak(self) -> float:
        """The largest score."""
        return self._ranked(self.num_pairs - 1)[0]

    def share_above(self, threshold: float) -> float:
        """The share of all P pairs with a score above a threshold."""
        value, count = self._unlisted
        return (int(torch.count_nonzero(self.score > threshold)) + int(count[value > threshold].sum())) / self.num_pairs

    def top(self, fraction: float, *, min_coactivations: int = 0) -> Pairs:
        """The pairs above the (1 - fraction) quantile: at most that share of all P, fewer at a tie.

        Args:
            fraction: share of all P pairs, in (0, 1); 0.1 for those above the 90th percentile.
            min_coactivations: leave out pairs that fire together on fewer rows. With 0, features that exclude each
                other, which tells much about both, can be among the top.

        Raises:
            SleaveError: `fraction` is not in (0, 1), or there would be more than 100 million pairs.
        """
        if not 0 < fraction < 1:
            raise SleaveError(f"`fraction` (= {fraction}) must be in (0, 1): 0.1 for the top 10% of all pairs.")
        return self.above(self.quantile(1 - fraction), min_coactivations=min_coactivations)

    def above(self, threshold: float, *, min_coactivations: int = 0) -> Pairs:
        """The pairs with a score above a threshold; see `top`."""
        i, j, score = self._listed_above(threshold, min_coactivations)
        if min_coactivations > 0:
            return Pairs(i, j, score)  # in order, as all that is listed
        value, count = self._unlisted
        more = int(count[value > threshold].sum())
        if more + len(i) > MOST_LISTED:
            raise SleaveError(
                f"{more + len(i):,} pairs lie above {threshold:.3g}, {more:,} of which never fire together; at "
                f"most {MOST_LISTED:,} can be listed. Ask for a smaller fraction, or give min_coactivations=1."
            )
        if more:
            other_i, other_j = self._unlisted_above(threshold)
            i, j = torch.cat([i, other_i]), torch.cat([j, other_j])
            score = torch.cat([score, self.apart[self.group[other_i], self.group[other_j]]])
        return Pairs.of(i, j, score)

    def attracted(self, fired: Int[Tensor, " d_sae"], rows: int) -> PairScores:
        """The same with 0 for pairs that fire together no more often than chance would have it, and never less than 0.

        Args:
            fired: on how many rows each feature fires.
            rows: how many there are.
        """
        if on_cpu(self.score):
            score = compiled(pair_kernels.attracted, self.i, self.j, self.score, self.together, fired, rows)
        else:
            often = self.together.double() * rows > fired[self.i].double() * fired[self.j]
            score = torch.where(often, self.score, 0).clamp(min=0)
        return replace(self, score=score, apart=torch.zeros_like(self.apart))

    def less(self, expected: Float[Tensor, "groups groups"]) -> PairScores:
        """The same less a number for each two groups."""
        if on_cpu(self.score):
            score = compiled(pair_kernels.less, self.i, self.j, self.score, self.group, expected)
        else:
            score = self.score - expected[self.group[self.i], self.group[self.j]]
        return replace(self, score=score, apart=self.apart - expected)

    def shrunk(self, by: float) -> PairScores:
        """Each score times m / (m + by), m the rows on which both features fire: what few rows say counts for less.

        Pairs that never fire together get 0.

        Raises:
            SleaveError: `by` is negative.
        """
        if not by >= 0:
            raise SleaveError(f"`shrinkage` (= {by}) must be at least 0: rows that count as having shown nothing.")
        if by == 0:
            return self
        return replace(
            self, score=self.score * self.together / (self.together + by), apart=torch.zeros_like(self.apart)
        )

    @cached_property
    def _unlisted(self) -> tuple[Tensor, Tensor]:
        """The scores that pairs which are not listed have, ascending, and how many pairs have each."""
        groups = len(self.apart)
        if not bool(self.apart.any()):
            count = torch.tensor([self.num_pairs - len(self.i)], device=self.score.device)
            return self.apart.new_zeros(1)[count > 0], count[count > 0]
        size = torch.bincount(self.group, minlength=groups)
        a, b = torch.triu_indices(groups, groups, device=size.device)
        count = torch.where(a == b, size[a] * (size[a] - 1) // 2, size[a] * size[b])
        place = self.group[self.i] * groups + self.group[self.j]
        listed = torch.bincount(place, minlength=groups * groups).view(groups, groups)
        count -= (listed + listed.tril(-1).t())[a, b]
        some = count > 0
        value, order = self.apart[a[some], b[some]].sort()
        return value, count[some][order]

    def _ranked(self, *ranks: int) -> list[float]:
        """The scores of some ranks among all P, from 0; by counting and selecting, without sorting what is listed."""
        value, count = self._unlisted
        upto = count.cumsum(0)
        below = cache(lambda k: int(torch.count_nonzero(self.score < value[k])))
        not_above = cache(lambda k: int(torch.count_nonzero(self.score <= value[k])))
        found, listed = {}, {}
        for rank in ranks:
            # The first unlisted value that, with all listed ones up to it, reaches beyond the rank.
            k = bisect_right(range(len(value)), rank, key=lambda k: int(upto[k]) + not_above(k))
            before = int(upto[k - 1]) if k else 0
            if k < len(value) and rank >= before + below(k):
                found[rank] = float(value[k])
            else:
                listed[rank] = rank - before
        found |= dict(zip(listed, at_ranks(self.score, list(listed.values())), strict=True))
        return [found[rank] for rank in ranks]

    def _listed_above(self, threshold: float, min_coactivations: int) -> tuple[Tensor, Tensor, Tensor]:
        listed = (self.i, self.j, self.score)
        if on_cpu(self.score):
            rules = (self.together, float(threshold), min_coactivations, torch.get_num_threads())
            kept: tuple[Tensor, Tensor, Tensor] = compiled(pair_kernels.above, *listed, *rules)
            return kept
        chosen = ((self.score > threshold) & (self.together >= min_coactivations)).nonzero().flatten()
        return self.i[chosen], self.j[chosen], self.score[chosen]

    def _unlisted_above(self, threshold: float) -> tuple[Tensor, Tensor]:
        high = self.apart > threshold
        return unlisted(self.i, self.j, self.d_sae, lambda rows: high[self.group[rows]][:, self.group])


def unlisted(
    i: Int[Tensor, " listed"], j: Int[Tensor, " listed"], d_sae: int, wanted: Callable[[slice], Tensor]
) -> tuple[Tensor, Tensor]:
    """The pairs that are wanted and not listed.

    Args:
        i, j: the listed pairs, i < j, in the order of (i, j).
        wanted: for some features, a (features, d_sae) mask of the partners that are wanted.
    """
    found = []
    rows = max(1, (1 << 26) // d_sae)
    for start in range(0, d_sae, rows):
        mask = wanted(slice(start, start + rows)).triu(diagonal=start + 1)
        inside = slice(*torch.searchsorted(i, torch.tensor([start, start + rows], device=i.device)).tolist())
        mask[i[inside] - start, j[inside]] = False
        row, column = mask.nonzero(as_tuple=True)
        found.append((row + start, column))
    return torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])


def check_memory(needed: float, what: str, advice: str, device: torch.device | None = None) -> None:
    """Refuse what would not fit into the memory that is free.

    Raises:
        NotEnoughMemory: it would not.
    """
    on_gpu = device is not None and device.type == "cuda"
    free = float(free_memory())
    if on_gpu:  # what torch keeps for later is free too
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = float(torch.cuda.mem_get_info(device)[0] + kept)
    if needed > free:
        size, rest = needed / 1e9, free / 1e9
        raise NotEnoughMemory(f"{what} needs about {size:.2g} GB of memory, and {rest:.2g} GB are free. {advice}")


def with_every_pair(matrix: Float[Tensor, "d_sae d_sae"], together: Int[Tensor, "d_sae d_sae"]) -> PairScores:
    """Scores that were computed as a whole matrix: every pair is listed."""
    d_sae = len(matrix)
    i, j = torch.triu_indices(d_sae, d_sae, offset=1, device=matrix.device)
    group = torch.zeros(d_sae, dtype=torch.int64, device=matrix.device)
    return PairScores(d_sae, i, j, matrix[i, j], together[i, j], group, matrix.new_zeros(1, 1))
