"""How alike the directions are that features write."""

from __future__ import annotations

from dataclasses import dataclass

from sleave.base.progress import progress
from sleave.evaluation.directions import Nearest, num_tiles, tiles
from sleave.evaluation.duplicates import NearDuplicates
from sleave.evaluation.evidence import Evidence
from sleave.evaluation.limits import ALIKE


@dataclass(frozen=True)
class DecoderResult:
    """Cosines of decoder directions in raw units, signs kept.

    Attributes:
        mean_nearest: the largest that a feature has with another, averaged over features.
        largest: the largest of all.
        near_duplicates: pairs that say and do the same (evaluation/duplicates.py), as an audit counts them.
    """

    mean_nearest: float
    largest: float
    near_duplicates: int


def decoder_figures(evidence: Evidence) -> DecoderResult:
    """The figures of an autoencoder's decoder; walks all pairs in tiles."""
    d_sae = evidence.codes.d_sae
    nearest, duplicates = Nearest(d_sae), NearDuplicates(evidence)
    with progress("Comparing directions", num_tiles(d_sae), "tiles") as advance:
        for row, column, tile in tiles(evidence.decoder):
            nearest.add(row, column, tile)
            i, j = (tile >= ALIKE).nonzero(as_tuple=True)
            duplicates.add(i + row, j + column, tile[i, j])
            advance(1, "")
    cosine = nearest.cosine.double()
    return DecoderResult(float(cosine.mean()), float(cosine.max()), len(duplicates))
