"""How much of the activations comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.activations.scaling import Moments
from sleave.base.errors import SleaveError


@dataclass(frozen=True)
class ReconstructionResult:
    """Reconstruction over all rows.

    Attributes:
        mse: ||x_hat - x||^2 summed over d_in, averaged over rows (the loss's convention).
        mse_per_dimension: the same, averaged over d_in too.
        fvu: fraction of variance unexplained: sum of squared errors / sum of squared deviations from the mean.
        explained_variance: exactly 1 - fvu (scikit-learn's r2_score with multioutput="variance_weighted").
        cosine: cosine of x and x_hat, averaged over rows; 0 where one of them is 0.
        norm_ratio: |x_hat| / |x|, averaged over the rows where x is not 0.
    """

    mse: float
    mse_per_dimension: float
    fvu: float
    explained_variance: float
    cosine: float
    norm_ratio: float


class Reconstruction:
    """Accumulates x and x_hat; any split into batches gives the same result.

    Attributes:
        moments: of x.
    """

    def __init__(self, d_in: int) -> None:
        self.moments = Moments.empty(d_in)
        self._squared_error = 0.0
        self._cosine = 0.0
        self._norm_ratio = 0.0
        self._not_zero = 0

    def update(self, x: Float[Tensor, "batch d_in"], x_hat: Float[Tensor, "batch d_in"]) -> None:
        """Add a batch."""
        self.moments.update(x)
        self._squared_error += float((x_hat - x).square().sum(dtype=torch.float64))
        x, x_hat = x.double(), x_hat.double()
        norm, norm_hat = x.norm(dim=1), x_hat.norm(dim=1)
        product = norm * norm_hat
        self._cosine += float(torch.where(product > 0, (x * x_hat).sum(1) / product, 0).sum())
        self._norm_ratio += float(torch.where(norm > 0, norm_hat / norm, 0).sum())
        self._not_zero += int((norm > 0).sum())

    @staticmethod
    def of_all(parts: Sequence[Reconstruction]) -> Reconstruction:
        """The rows of all the parts."""
        whole = Reconstruction(len(parts[0].moments.mean))
        for part in parts:
            whole.moments.merge(part.moments)
            whole._squared_error += part._squared_error
            whole._cosine += part._cosine
            whole._norm_ratio += part._norm_ratio
            whole._not_zero += part._not_zero
        return whole

    def compute(self) -> ReconstructionResult:
        """The result so far.

        Raises:
            SleaveError: no rows, or rows that are all the same, so that there is no variance to explain.
        """
        count = self.moments.count
        variance = float(self.moments.variance.sum()) if count else 0.0
        if variance <= 0:
            raise SleaveError(f"{count} held-out rows without any variance: there is nothing to reconstruct.")
        mse = self._squared_error / count
        fvu = mse / variance
        return ReconstructionResult(
            mse,
            mse / len(self.moments.mean),
            fvu,
            1 - fvu,
            self._cosine / count,
            self._norm_ratio / self._not_zero,
        )
