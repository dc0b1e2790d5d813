"""The pairs that share most, out of all that fire together."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.auditing.results import StrongPairs
from sleave.evaluation.evidence import Evidence
from sleave.evaluation.limits import OFTEN

LISTED = 30_000  # by each measure; enough for the heat map of any features, whatever the width of the dictionary


def strong_pairs(evidence: Evidence, listed: int = LISTED) -> tuple[StrongPairs, Float[Tensor, " pairs"]]:
    """The strongest pairs by |r| and the strongest by mutual information; and |r| of every pair that fires together.

    Args:
        evidence: of all features.
        listed: how many pairs by each of the two, of those that fire together on 10 rows at least.
    """
    i, j, together, r = evidence.correlations()
    r = r.abs().clamp_max(1)
    often = (together >= OFTEN).nonzero().flatten()
    information = evidence.information(i[often], j[often])
    first, least_pearson = _largest(r[often], listed)
    second, least_information = _largest(information, listed)
    kept = torch.cat([first, second]).unique()
    place = often[kept]
    strong = StrongPairs(
        i=tuple(i[place].tolist()),
        j=tuple(j[place].tolist()),
        pearson=_rounded(r[place], 3),
        information=_rounded(information[kept], 5),
        least_pearson=round(least_pearson, 3),
        least_information=round(least_information, 5),
    )
    return strong, r


def _largest(score: Float[Tensor, " n"], count: int) -> tuple[Tensor, float]:
    """The places of the largest scores, and the least of them; 0 if that is all there are."""
    if len(score) <= count:
        return torch.arange(len(score)), 0.0
    value, place = score.topk(count)
    return place, float(value[-1])


def _rounded(values: Float[Tensor, " n"], digits: int) -> tuple[float, ...]:
    return tuple(round(value, digits) for value in values.tolist())
