"""How sparse the codes are, and which features are used."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.autoencoder.model import ACTIVE
from sleave.codes.codes import Codes, as_codes
from sleave.evaluation.histogram import Histogram, histogram

DENSE = 0.1  # share of rows


@dataclass(frozen=True)
class CodesResult:
    """Sparsity and utilisation over all rows.

    Attributes:
        l0: features that fire on a row, on average.
        l1: sum of a row's codes, on average, each times the norm of its decoder row.
        active: features whose mean activation is above 1e-6.
        dead: features that fire on no row.
        dense: features that fire on more than 10% of the rows.
        density: of features that fire at all, log10 of the share of rows on which they do.
    """

    l0: float
    l1: float
    active: int
    dead: int
    dense: int
    density: Histogram


class CodeStatistics:
    """Accumulates codes.

    Args:
        decoder_norm: (d_sae,) norm of each decoder row in the units that L1 is to be counted in; makes L1 independent
            of how a code and its decoder row share a factor.
    """

    def __init__(self, decoder_norm: Float[Tensor, " d_sae"]) -> None:
        self._norm = decoder_norm.double()
        self._sum = torch.zeros_like(self._norm)
        self._fired = torch.zeros_like(self._norm)
        self._rows = 0

    def update(self, acts: Float[Tensor, "batch d_sae"] | Codes) -> None:
        """Add a batch."""
        if len(acts) == 0:
            return
        codes = as_codes(acts)
        self._sum.index_add_(0, codes.feature, codes.value.double())
        self._fired += codes.fired
        self._rows += codes.rows

    def compute(self) -> CodesResult:
        """The result so far."""
        mean = self._sum * self._norm / self._rows
        rate = self._fired / self._rows
        return CodesResult(
            l0=float(rate.sum()),
            l1=float(mean.sum()),
            active=int((mean > ACTIVE).sum()),
            dead=int((self._fired == 0).sum()),
            dense=int((rate > DENSE).sum()),
            density=histogram(rate[rate > 0].log10(), -6, 0),
        )
