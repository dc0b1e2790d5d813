"""Near-duplicates (see evaluation/duplicates.py) to be read, and clusters of them."""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor

from sleave.auditing.figures import pair_figures
from sleave.auditing.results import Cluster, NearDuplicate
from sleave.evaluation.duplicates import NearDuplicates
from sleave.evaluation.evidence import Evidence


def strongest(found: NearDuplicates, evidence: Evidence, count: int) -> tuple[NearDuplicate, ...]:
    """Those with the largest decoder cosines, with all their figures."""
    first = torch.argsort(found.cosine, descending=True, stable=True)[:count]
    figures = pair_figures(evidence, found.i[first], found.j[first])
    shown = zip(figures, found.by_codes[first].tolist(), found.by_encoders[first].tolist(), strict=True)
    return tuple(NearDuplicate(*values) for values in shown)


def clusters_of(found: NearDuplicates, d_sae: int) -> list[Cluster]:
    """The connected components, largest first, then the one with the smallest member."""
    component = components(d_sae, found.i, found.j)
    members = torch.cat([found.i, found.j]).unique()
    of_member, of_pair = component[members], component[found.i]
    clusters = []
    for name in of_member.unique().tolist():
        cosine = found.cosine[of_pair == name]
        ours = tuple(members[of_member == name].tolist())
        clusters.append(Cluster(ours, len(cosine), float(cosine.double().mean())))
    return sorted(clusters, key=lambda c: (-len(c.members), c.members))


def components(count: int, i: Int64[Tensor, " n"], j: Int64[Tensor, " n"]) -> Int64[Tensor, " count"]:
    """For each of `count` things, the smallest one that it is linked to by pairs (i, j), however far."""
    label = torch.arange(count)
    while True:
        least = torch.minimum(label[i], label[j])
        before = label
        label = label.scatter_reduce(0, i, least, "amin").scatter_reduce(0, j, least, "amin")
        label = label[label]
        if torch.equal(label, before):
            return label
