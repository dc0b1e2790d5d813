"""Suspects of splitting and of absorption: leads for whoever reads the texts, not proofs.

Both are pairs of like decoder directions, each of which fires on 10 rows at least, that fire together on at most half
of the rows that chance alone would have, and 3 standard deviations less than that. Two features that read like
directions should fire together far *more* often than chance would have it. Directions count as alike by the smaller of
two cosines: that in raw units, and that with each dimension in units of its deviation. For a lead that hangs on the
units is none: in raw units a few wide dimensions decide, and make even orthogonal features of a standardised training
look alike.

*Splitting*: a decoder cosine of 0.6 at least. Perhaps one feature of the model in two contexts.

*Absorption*: the parent, which fires on more rows, is silent where the child fires, although what it stands for is
there: the child's direction holds part of the parent's (a cosine of 0.3 at least), and where the child fires without
the parent, the mean projection of x - b_dec on the parent's direction is at least half of that where the parent fires
(both less the mean over all rows, so that it does not matter where the origin lies). The latter must be half a standard
deviation, over all rows, at least: the firing of some features has little to do with the direction that they write,
which could be there anywhere.

Reference: Chanin et al. 2024, "A is for Absorption: Studying Feature Splitting and Absorption in Sparse Autoencoders".
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from sleave.activations.rows import Rows
from sleave.activations.scaling import Moments
from sleave.auditing.figures import pair_figures
from sleave.auditing.limits import ABSORBED, CANDIDATES, OWN, PRESENT, SPLIT
from sleave.auditing.results import AbsorptionSuspect, SplitSuspect
from sleave.auditing.rows import block_rows
from sleave.base.progress import progress
from sleave.codes.codes import Codes
from sleave.dependence.correlation import pair_correlation
from sleave.evaluation.evidence import Evidence
from sleave.evaluation.limits import SURE


class Suspects:
    """Gathers pairs that fire together less than chance would have it, among pairs given with their decoder cosines.

    Attributes:
        splits: (i, j, smaller decoder cosine) of all suspects of splitting.
        candidates: (i, j, standard deviations below chance) of the likeliest candidates for absorption.
        num_candidates: how many there were.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        none = torch.empty(0, dtype=torch.int64)
        self.splits = (none, none, torch.empty(0))
        self.candidates = (none, none, torch.empty(0, dtype=torch.float64))
        self.num_candidates = 0

    def add(self, i: Int64[Tensor, " n"], j: Int64[Tensor, " n"], cosine: Float[Tensor, " n"]) -> None:
        """Keep the suspects and candidates of some pairs."""
        evidence = self._evidence
        alike = cosine >= ABSORBED
        i, j, cosine = i[alike], j[alike], cosine[alike]
        cosine = torch.minimum(cosine, pair_correlation(evidence.standardised, i, j))
        suspect = (cosine >= ABSORBED) & evidence.seldom(i, j)
        i, j, cosine = i[suspect], j[suspect], cosine[suspect]
        deviations = evidence.deviations(i, j)
        sure = deviations >= SURE
        self.splits = _joined(self.splits, (i, j, cosine), sure & (cosine >= SPLIT))
        self.num_candidates += int(sure.sum())
        joined = _joined(self.candidates, (i, j, deviations), sure)
        self.candidates = _strongest(joined, CANDIDATES)

    def strongest_splits(self, count: int) -> tuple[SplitSuspect, ...]:
        """The suspects of splitting with the largest decoder cosines."""
        i, j, _ = _strongest(self.splits, count)
        deviations = self._evidence.deviations(i, j).tolist()
        return tuple(SplitSuspect(*both) for both in zip(pair_figures(self._evidence, i, j), deviations, strict=True))

    def absorptions(self, rows: Rows, count: int) -> tuple[tuple[AbsorptionSuspect, ...], int]:
        """The suspects of absorption among the candidates, the first so many, and how many there are.

        Reads the rows once more, if there are candidates.
        """
        i, j, deviations = self.candidates
        if len(i) == 0:
            return (), 0
        evidence = self._evidence
        swapped = evidence.codes.fired[j] > evidence.codes.fired[i]
        parent, child = torch.where(swapped, j, i), torch.where(swapped, i, j)
        own, alone, spread = projections(evidence, rows, parent, child)
        kept = ((own >= OWN * spread) & (own > 0) & (alone >= PRESENT * own)).nonzero().flatten()
        shown = kept[torch.argsort(deviations[kept], descending=True, stable=True)][:count]
        figures = pair_figures(evidence, i[shown], j[shown])
        columns = (c[shown].tolist() for c in (parent, child, deviations, own, alone, alone / own))
        return tuple(AbsorptionSuspect(*values) for values in zip(figures, *columns, strict=True)), len(kept)


@torch.no_grad()
def projections(
    evidence: Evidence, rows: Rows, parent: Int64[Tensor, " n"], child: Int64[Tensor, " n"]
) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " n"], Float64[Tensor, " n"]]:
    """Projections of x - b_dec on parents' decoder directions.

    Args:
        evidence: of the features.
        rows: all the activations x.
        parent, child: features.

    Returns:
        own: the mean where the parent fires, less the mean over all rows;
        alone: the same where the child fires and the parent does not (0 if that is nowhere);
        spread: the standard deviation over all rows.
    """
    codes = evidence.codes
    parents, p = parent.unique(return_inverse=True)
    children, c = child.unique(return_inverse=True)
    moments = Moments.empty(len(parents))
    own = torch.zeros(len(parents), dtype=torch.float64)
    alone = torch.zeros(len(parents), len(children), dtype=torch.float64)
    times = torch.zeros_like(alone)
    first = 0
    with progress("Looking for absorbed features", rows.count, "rows") as advance:
        for x in rows.blocks(block_rows(codes.d_sae)):
            last = first + len(x)
            fires, other = (_fires(codes, first, last, features) for features in (parents, children))
            projection = (x - evidence.b_dec) @ evidence.decoder[parents].t()
            moments.update(projection)
            own += (projection * fires).double().sum(0)
            alone += (projection * (1 - fires)).t() @ other
            times += (1 - fires).t() @ other
            first = last
            advance(len(x), "")
    mean, fired, apart = moments.mean[p], codes.fired[parent], times[p, c]
    return (
        torch.where(fired > 0, own[p] / fired - mean, 0),
        torch.where(apart > 0, alone[p, c] / apart - mean, 0),
        moments.variance.sqrt()[p],
    )


def _fires(codes: Codes, first: int, last: int, features: Int64[Tensor, " n"]) -> Float[Tensor, "rows n"]:
    """Whether each of some features fires on some rows, 0 or 1."""
    place = torch.full((codes.d_sae,), -1)
    place[features] = torch.arange(len(features))
    entries = slice(int(codes.start[first]), int(codes.start[last]))
    column = place[codes.feature[entries]]
    row = codes.row[entries] - first
    fires = torch.zeros(last - first, len(features))
    fires[row[column >= 0], column[column >= 0]] = 1
    return fires


Scored = tuple[Tensor, Tensor, Tensor]


def _joined(there: Scored, more: Scored, wanted: Tensor) -> Scored:
    i, j, score = (torch.cat([a, b[wanted]]) for a, b in zip(there, more, strict=True))
    return i, j, score


def _strongest(scored: Scored, count: int) -> Scored:
    order = torch.argsort(scored[2], descending=True, stable=True)[:count]
    i, j, score = (column[order] for column in scored)
    return i, j, score
