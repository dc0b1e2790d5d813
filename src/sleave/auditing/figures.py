"""All figures of some pairs."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sleave.auditing.results import PairFigures
from sleave.dependence.correlation import pair_correlation
from sleave.evaluation.evidence import Evidence
from sleave.evaluation.information import normalized_information


def pair_figures(evidence: Evidence, i: Int64[Tensor, " n"], j: Int64[Tensor, " n"]) -> tuple[PairFigures, ...]:
    """All that is known of pairs (i, j), i < j."""
    codes, together, dots = evidence.codes, evidence.together(i, j), evidence.dots(i, j)
    fired, rows = codes.fired, codes.rows
    columns = (
        *(i, j, evidence.information(i, j), normalized_information(rows, fired[i], fired[j], together)),
        *(evidence.correlation(i, j, dots, centred) for centred in (True, False)),
        *(pair_correlation(unit, i, j) for unit in (evidence.decoder, evidence.standardised, evidence.encoder)),
        *(fired[i], fired[j], together, evidence.expected(i, j), fired[i] / rows, fired[j] / rows),
        *(_share(together, fired[j]), _share(together, fired[i]), _share(together, fired[i] + fired[j] - together)),
    )
    return tuple(PairFigures(*values) for values in zip(*(c.tolist() for c in columns), strict=True))


def _share(part: Tensor, whole: Tensor) -> Float[Tensor, " n"]:
    return torch.where(whole > 0, part.double() / whole, 0)
