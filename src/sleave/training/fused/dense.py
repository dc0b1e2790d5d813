"""A ReLU autoencoder's pass with dense codes: five matrix products, and three passes over what they leave.

Codes are held as (d_sae, batch), in which each feature's are contiguous, so that sums of a feature run along memory.
The gradient of x, a sixth product, is never taken. The ReLU's mask, the gradients of the L1 norm and of the constraint
are one pass over the codes; the residual, its square and the gradient of b_dec another.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sleave.autoencoder.model import SparseAutoencoder
from sleave.codes.compiled import compiled
from sleave.codes.number_kernels import readable
from sleave.training.forward import Forward
from sleave.training.fused import kernels


def forward(
    sae: SparseAutoencoder,
    x: Float[Tensor, "batch d_in"],
    codes: Float[Tensor, "d_sae batch"],
    total: Float[Tensor, " d_sae"],
    fired: Int[Tensor, " d_sae"],
) -> Forward:
    """What the reference gives, to rounding, given the codes, which say in what dtype products are taken."""
    mse, acts, total, residual = _Dense.apply(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, x, codes, total)
    return Forward(acts, residual, mse, total, fired.float())


class _Dense(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        x: Tensor,
        codes: Tensor,
        total: Tensor,
    ) -> tuple[Tensor, ...]:
        decoder = W_dec.to(codes.dtype)
        with torch.autocast("cpu", enabled=False):
            residual = torch.mm(codes.t(), decoder)
        squared, strips = compiled(kernels.subtract, readable(residual), b_dec, x)
        ctx.save_for_backward(x, decoder, codes, residual, strips)
        ctx.mark_non_differentiable(residual)
        ctx.set_materialize_grads(False)
        return squared.mean(), codes.t(), total.clone(), residual

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_mse: Tensor | None, by_acts: Tensor | None, by_total: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        x, decoder, codes, residual, strips = ctx.saved_tensors
        scale = 0.0 if by_mse is None else 2 * float(by_mse) / len(x)
        each = torch.zeros(len(codes)) if by_total is None else by_total.contiguous()
        more = codes[:0] if by_acts is None else by_acts.t().contiguous()
        slope = torch.mm(decoder, residual.t())  # (d_sae, batch)
        by_b_enc = compiled(kernels.through_relu, readable(slope), readable(codes), scale, each, readable(more))
        by_W_enc = torch.mm(slope, x.to(codes.dtype)).float().t()
        by_W_dec = torch.mm(codes, residual).float().mul_(scale)
        return by_W_enc, by_b_enc, by_W_dec, strips.sum(dim=0).mul_(scale), None, None, None
