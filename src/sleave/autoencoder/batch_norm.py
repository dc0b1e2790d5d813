"""Batch norm on what the encoder reads."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from sleave.base.errors import SleaveError
from sleave.base.ranks import current

EPS = 1e-5  # as torch.nn.BatchNorm1d has it, like the next
MOMENTUM = 0.1


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + EPS) * gamma + beta, per dimension, in float32 also under autocast.

    In training, mean and variance (biased) are those of the rows given; in eval mode they are the running ones. The
    numbers are those of torch.nn.BatchNorm1d, but a forward pass changes nothing: `track` moves the running statistics.
    So a pass may be computed twice (gradient checkpointing) or thrown away (a loss that is not finite), and with
    gradient accumulation, where each part is normalised by its own statistics, the running ones are of whole batches.

    Attributes:
        gamma: (d_in,) learned factor.
        beta: (d_in,) learned offset.
        mean: (d_in,) running mean.
        variance: (d_in,) running variance, unbiased.

    Reference: Ioffe & Szegedy 2015, "Batch Normalization", Algorithms 1 and 2.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, d_in: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(d_in))
        self.beta = nn.Parameter(torch.zeros(d_in))
        self.register_buffer("mean", torch.zeros(d_in))
        self.register_buffer("variance", torch.ones(d_in))

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """The rows, normalised.

        Raises:
            SleaveError: in training, fewer than two rows.
        """
        x = x.float()
        mean, variance = _moments(x, correction=0) if self.training else (self.mean, self.variance)
        return (x - mean) * (torch.rsqrt(variance + EPS) * self.gamma) + self.beta

    @torch.no_grad()
    def track(self, x: Float[Tensor, "*batch d_in"], momentum: float = MOMENTUM) -> None:
        """Move the running statistics towards those of a batch; with momentum 1, onto them.

        Raises:
            SleaveError: fewer than two rows.
        """
        mean, variance = _moments(x.float(), correction=1)
        self.mean.lerp_(mean, momentum)
        self.variance.lerp_(variance, momentum)

    @torch.no_grad()
    def affine(self) -> tuple[Float64[Tensor, " d_in"], Float64[Tensor, " d_in"]]:
        """Factor and offset of eval mode, x * factor + offset, in float64 on the CPU."""
        gamma, beta, mean, variance = (
            t.detach().cpu().double() for t in (self.gamma, self.beta, self.mean, self.variance)
        )
        factor = gamma / (variance + EPS).sqrt()
        return factor, beta - mean * factor


def _moments(x: Tensor, correction: int) -> tuple[Tensor, Tensor]:
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) < 2:
        raise SleaveError(
            f"Batch norm needs the statistics of at least 2 rows in training, and was given {len(rows)}. Use larger "
            "batches or fewer parts (`training.accumulation`), or set `autoencoder.batch_norm` to false."
        )
    ranks = current().rows
    if ranks.size == 1:
        variance, mean = torch.var_mean(rows, dim=0, correction=correction)
        return mean, variance
    mean = ranks.mean(rows.mean(dim=0))  # of all ranks' rows, of which none has a gradient
    number = len(rows) * ranks.size
    return mean, ranks.mean((rows - mean).square().mean(dim=0)) * (number / (number - correction))
