"""What a step needs to know of its batch: in plain torch, the reference of whatever is faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sleave.autoencoder.model import TrainingPass
from sleave.codes.codes import Codes

Pass = Callable[[Tensor, Tensor | None], TrainingPass]


@dataclass(frozen=True)
class Forward:
    """A batch, encoded and decoded.

    Attributes:
        acts: (batch, d_sae) the codes.
        residual: (batch, d_in) x_hat - x, without a gradient.
        mse: squared error, summed over d_in, averaged over rows.
        total: (d_sae,) sum of each feature's codes.
        fired: (d_sae,) on how many rows each feature fires.
        sparsity, auxiliary, least: see `TrainingPass`.
    """

    acts: Tensor | Codes
    residual: Tensor
    mse: Tensor
    total: Tensor
    fired: Tensor
    sparsity: Tensor | None = None
    auxiliary: Tensor | None = None
    least: Tensor | None = None


def reference(training_pass: Pass, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_sae"] | None) -> Forward:
    """By the autoencoder's own pass."""
    given = training_pass(x, dead)
    residual = given.x_hat.float() - x
    mse = residual.square().sum(dim=1).mean()
    acts = given.acts
    fired = acts.fired.float() if isinstance(acts, Codes) else (acts.detach() > 0).float().sum(dim=0)
    return Forward(acts, residual.detach(), mse, _total(acts), fired, given.sparsity, given.auxiliary, given.least)


def _total(acts: Tensor | Codes) -> Tensor:
    if isinstance(acts, Codes):
        return acts.value.float().new_zeros(acts.d_sae).index_add_(0, acts.feature, acts.value.float())
    return acts.sum(dim=0, dtype=torch.float32)
