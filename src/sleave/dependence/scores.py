"""One number for each of all P pairs, kept so that P numbers are never needed."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.dependence.pairs import Pairs, num_pairs, sorted_pairs

MOST_LISTED = 100_000_000  # pairs; a list of more is 2.4 GB and of no use to anyone


@dataclass(frozen=True, eq=False)
class PairScores:
    """A score for every pair: listed for pairs that fire together, a function of two groups for all others.

    Two features that never fire together share nothing but how often each fires, so their score depends on that
    alone: features that fire equally often form a group.

    Attributes:
        d_sae: how many features there are.
        i, j: the pairs that are listed, i < j, each once.
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
        check_memory(8 * self.d_sae**2, what, "Use `.top()` or `.quantile()` instead.")
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
        if not 0 < q < 1:
            raise SleaveError(f"`q` (= {q}) must be in (0, 1): 0.9 for the 90th percentile.")
        place = q * (self.num_pairs - 1)
        low = int(place)
        below, above = self._neighbouring(low)
        return below + (place - low) * (above - below)

    def peak(self) -> float:
        """The largest score."""
        listed = [float(self.score.max())] if len(self.score) else []
        unlisted = [float(self._unlisted[0][-1])] if len(self._unlisted[0]) else []
        return max(listed + unlisted)

    def share_above(self, threshold: float) -> float:
        """The share of all P pairs with a score above a threshold."""
        value, count = self._unlisted
        return (int((self.score > threshold).sum()) + int(count[value > threshold].sum())) / self.num_pairs

    def top(self, fraction: float, *, min_coactivations: int = 0) -> Pairs:
        """The pairs above the (1 - fraction) quantile, strongest first: at most that share of all P, fewer at a tie.

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
        """The pairs with a score above a threshold, strongest first; see `top`."""
        chosen = (self.score > threshold) & (self.together >= min_coactivations)
        i, j, score = self.i[chosen], self.j[chosen], self.score[chosen]
        if min_coactivations <= 0:
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
        return sorted_pairs(i, j, score)

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
        size = torch.bincount(self.group, minlength=groups)
        a, b = torch.triu_indices(groups, groups, device=size.device)
        count = torch.where(a == b, size[a] * (size[a] - 1) // 2, size[a] * size[b])
        first, second = self.group[self.i], self.group[self.j]
        place = torch.minimum(first, second) * groups + torch.maximum(first, second)
        count -= torch.bincount(place, minlength=groups * groups)[a * groups + b]
        some = count > 0
        value, order = self.apart[a[some], b[some]].sort()
        return value, count[some][order]

    def _neighbouring(self, rank: int) -> tuple[float, float]:
        """The scores of that rank and of the next among all P, from 0; the same twice for the last."""
        found = self._ranked(rank)
        value, count = self._unlisted
        upto = int((self.score <= found).sum()) + int(count[value <= found].sum())
        if upto > min(rank + 1, self.num_pairs - 1):
            return found, found
        return found, float(torch.cat([self.score[self.score > found], value[value > found]]).min())

    def _ranked(self, rank: int) -> float:
        """The score of that rank: what is not listed is halved until it cannot be there, and what is listed with it."""
        score, (value, count) = self.score, self._unlisted
        while len(value):
            middle = len(value) // 2
            less, more = score < value[middle], score > value[middle]
            below = int(less.sum()) + int(count[:middle].sum())
            upto = len(score) - int(more.sum()) + int(count[: middle + 1].sum())
            if below <= rank < upto:
                return float(value[middle])
            if rank < below:
                score, value, count = score[less], value[:middle], count[:middle]
            else:
                score, value, count = score[more], value[middle + 1 :], count[middle + 1 :]
                rank -= upto
        return float(torch.kthvalue(score, rank + 1).values)

    def _unlisted_above(self, threshold: float) -> tuple[Tensor, Tensor]:
        order = torch.argsort(self.i, stable=True)
        i, j = self.i[order], self.j[order]
        found = []
        rows = max(1, (1 << 26) // self.d_sae)
        high = self.apart > threshold
        for start in range(0, self.d_sae, rows):
            mask = high[self.group[start : start + rows]][:, self.group].triu_(diagonal=start + 1)
            listed = slice(*torch.searchsorted(i, torch.tensor([start, start + rows], device=i.device)).tolist())
            mask[i[listed] - start, j[listed]] = False
            row, column = mask.nonzero(as_tuple=True)
            found.append((row + start, column))
        return torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found])


def check_memory(needed: float, what: str, advice: str, device: torch.device | None = None) -> None:
    """Refuse what would not fit into the memory that is free.

    Raises:
        SleaveError: it would not.
    """
    on_gpu = device is not None and device.type == "cuda"
    free = float(torch.cuda.mem_get_info(device)[0]) if on_gpu else _free_memory()
    if needed > free:
        size, rest = needed / 1e9, free / 1e9
        raise SleaveError(f"{what} needs about {size:.2g} GB of memory, and {rest:.2g} GB are free. {advice}")


def _free_memory() -> float:
    try:
        with open(
            "/proc/meminfo", encoding="ascii"
        ) as lines:  # knows what the system would give up, as sysconf does not
            return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def with_every_pair(matrix: Float[Tensor, "d_sae d_sae"], together: Int[Tensor, "d_sae d_sae"]) -> PairScores:
    """Scores that were computed as a whole matrix: every pair is listed."""
    d_sae = len(matrix)
    i, j = torch.triu_indices(d_sae, d_sae, offset=1, device=matrix.device)
    group = torch.zeros(d_sae, dtype=torch.int64, device=matrix.device)
    return PairScores(d_sae, i, j, matrix[i, j], together[i, j], group, matrix.new_zeros(1, 1))
