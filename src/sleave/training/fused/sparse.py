"""A pass with codes of which only what fires is kept: no matrix product but the encoder's own is left.

Rows are decoded one by one, and become the residual, its square and their share of b_dec's gradient before they leave
the cache. Gradients are then taken feature by feature: each row of the residual is read once, for the gradient of the
code and for that of the decoder's direction.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sleave.autoencoder.model import SparseAutoencoder
from sleave.codes.codes import Codes
from sleave.codes.compiled import compiled
from sleave.codes.number_kernels import readable
from sleave.training.forward import Forward
from sleave.training.fused import kernels


def forward(sae: SparseAutoencoder, x: Float[Tensor, "batch d_in"], codes: Codes, dtype: torch.dtype) -> Forward:
    """What the reference gives, to rounding, given the codes; rows and weights are read in some dtype."""
    parameters = (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)
    mse, value, total, residual = _Sparse.apply(*parameters, x, codes, dtype)
    return Forward(codes.with_value(value), residual, mse, total, codes.fired.float())


class _Sparse(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        W_enc: Tensor,
        b_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        x: Tensor,
        codes: Codes,
        dtype: torch.dtype,
    ) -> tuple[Tensor, ...]:
        decoder, residual = W_dec.to(dtype), torch.empty(x.shape, dtype=dtype)
        given = (codes.start, codes.feature, codes.value, readable(decoder), b_dec, x, readable(residual))
        squared, strips = compiled(kernels.decode, *given)
        ctx.codes = codes
        ctx.save_for_backward(x, decoder, residual, strips)
        ctx.mark_non_differentiable(residual)
        ctx.set_materialize_grads(False)
        total = torch.zeros(codes.d_sae).index_add_(0, codes.feature, codes.value)
        return squared.mean(), codes.value.clone(), total, residual

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, by_mse: Tensor | None, by_value: Tensor | None, by_total: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        x, decoder, residual, strips = ctx.saved_tensors
        codes: Codes = ctx.codes
        scale = 0.0 if by_mse is None else 2 * float(by_mse) / len(x)
        each = torch.zeros(codes.d_sae) if by_total is None else by_total.contiguous()
        more = torch.empty(0) if by_value is None else by_value.contiguous()
        by_W_enc, by_W_dec = torch.empty(decoder.shape), torch.empty(decoder.shape)
        given = (*codes.by_feature, codes.row, codes.value, scale, each, more)
        read = (readable(decoder), readable(residual), readable(x.to(decoder.dtype)))
        by_b_enc = compiled(kernels.gradients, *given, *read, by_W_enc, by_W_dec, torch.get_num_threads())
        return by_W_enc.t(), by_b_enc, by_W_dec, strips.sum(dim=0).mul_(scale), None, None, None
