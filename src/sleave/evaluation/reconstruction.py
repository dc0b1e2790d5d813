"""How much of the activations comes back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.activations.scaling import Moments
from sleave.base.errors import SleaveError


@dataclass(frozen=True)
class ReconstructionResult:
    """Reconstruction error over all rows.

    Attributes:
        mse: ||x_hat - x||^2 summed over d_in, averaged over rows (the loss's convention).
        mse_per_dimension: the same, averaged over d_in too.
        fvu: fraction of variance unexplained: sum of squared errors / sum of squared deviations from the mean.
        explained_variance: exactly 1 - fvu (scikit-learn's r2_score with multioutput="variance_weighted").
    """

    mse: float
    mse_per_dimension: float
    fvu: float
    explained_variance: float


class Reconstruction:
    """Accumulates x and x_hat; any split into batches gives the same result."""

    def __init__(self, d_in: int) -> None:
        self._moments = Moments.empty(d_in)
        self._squared_error = 0.0

    def update(self, x: Float[Tensor, "batch d_in"], x_hat: Float[Tensor, "batch d_in"]) -> None:
        """Add a batch."""
        self._moments.update(x)
        self._squared_error += float((x_hat - x).square().sum(dtype=torch.float64))

    def compute(self) -> ReconstructionResult:
        """The result so far.

        Raises:
            SleaveError: no rows, or rows that are all the same, so that there is no variance to explain.
        """
        count = self._moments.count
        variance = float(self._moments.variance.sum()) if count else 0.0
        if variance <= 0:
            raise SleaveError(f"{count} held-out rows without any variance: there is nothing to reconstruct.")
        mse = self._squared_error / count
        fvu = mse / variance
        return ReconstructionResult(mse, mse / len(self._moments.mean), fvu, 1 - fvu)
