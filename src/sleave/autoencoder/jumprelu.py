"""ReLU with a threshold of its own for each feature."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sleave.autoencoder.model import SparseAutoencoder, TrainingPass
from sleave.base.errors import SleaveError

THRESHOLD = 0.01  # SAELens's defaults, which suit activations of about one unit in each dimension
BANDWIDTH = 0.05


class JumpReLUAutoencoder(SparseAutoencoder):
    """f = z H(z - threshold), z = x W_enc + b_enc, kept sparse by the L0 norm of f.

    The step H has no gradient, so the threshold gets that of a rectangular kernel estimate of the loss's expectation
    (Eqs. (11), (12)); z gets the gradient of what passed, as the paper has it. The threshold itself is learned, not its
    logarithm, and kept at 0 or above: Adam moves a parameter by about the learning rate, whatever its scale.

    Attributes:
        threshold: (d_sae,).
        bandwidth: width of the kernel, in units of z.
        lr_scale: the threshold's learning rate, in multiples of that of the weights: sqrt(d_in), unless given.

    Reference: Rajamanoharan et al. 2024, "Jumping Ahead: Improving Reconstruction Fidelity with JumpReLU Sparse
    Autoencoders".
    """

    architecture = "jumprelu"

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        apply_b_dec_to_input: bool = False,
        *,
        threshold: float = THRESHOLD,
        bandwidth: float = BANDWIDTH,
        threshold_lr: float | None = None,
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_in, d_sae, apply_b_dec_to_input, batch_norm=batch_norm, dropout=dropout)
        if not (threshold >= 0 and bandwidth > 0):
            raise SleaveError(
                f"`threshold` (= {threshold}) must be at least 0, and `bandwidth` (= {bandwidth}) above 0."
            )
        self.threshold = nn.Parameter(torch.full((d_sae,), float(threshold)))
        self.bandwidth = bandwidth
        # Adam moves weights of about d_in^-1/2, and a threshold of about 1, by the same in a step.
        self.lr_scale = {"threshold": d_in**0.5 if threshold_lr is None else threshold_lr}

    def _codes(self, x: Tensor) -> Tensor:
        return self._jump(x @ self.W_enc + self.b_enc)

    def _jump(self, z: Tensor) -> Tensor:
        acts: Tensor = _JumpReLU.apply(z, self.threshold, self.bandwidth)
        return acts

    def training_pass(self, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_sae"] | None = None) -> TrainingPass:
        z = self._encoder_input(x) @ self.W_enc + self.b_enc
        acts = self._jump(z)
        l0: Tensor = _Step.apply(z.detach(), self.threshold, self.bandwidth).sum() / len(x)
        return TrainingPass(acts, self.decode(acts), sparsity=l0)

    @torch.no_grad()
    def track(self, x: Float[Tensor, "batch d_in"], least: Tensor | None) -> None:
        super().track(x, least)
        self.threshold.clamp_(min=0)

    def folded(self, shift: Float64[Tensor, " d_sae"], factor: Float64[Tensor, " d_sae"]) -> JumpReLUAutoencoder:
        # The bandwidth is one for all features, and so cannot follow a factor of each.
        other = JumpReLUAutoencoder(self.d_in, self.d_sae, apply_b_dec_to_input=True, bandwidth=self.bandwidth)
        other.threshold.copy_(self.threshold.cpu().double() * factor)
        return other


def _near(z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """The rectangular kernel at (z - threshold) / bandwidth."""
    return ((z - threshold).abs() < bandwidth / 2).to(z.dtype)


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return torch.relu(z) * (z > threshold)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        z, threshold = ctx.saved_tensors
        by_threshold = -(threshold / ctx.bandwidth) * (_near(z, threshold, ctx.bandwidth) * gradient).sum(dim=0)
        return gradient * ((z > threshold) & (z > 0)), by_threshold, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.bandwidth = bandwidth
        return (z > threshold).to(threshold.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        z, threshold = ctx.saved_tensors
        return None, -(_near(z, threshold, ctx.bandwidth) * gradient).sum(dim=0) / ctx.bandwidth, None
