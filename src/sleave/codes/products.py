"""Products with codes of which only what fires is kept, and their gradients: nothing of (batch, d_sae) is made."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sleave.codes import kernels
from sleave.codes.codes import Codes
from sleave.codes.compiled import compiled, on_cpu

ENTRIES = 1 << 16  # of a block of the reference, which copies a row of the matrix for each


def times(codes: Codes, matrix: Float[Tensor, "d_sae width"]) -> Float[Tensor, "batch width"]:
    """codes @ matrix, in float32 (float64 if both are); differentiable in the codes' values and in the matrix."""
    result: Tensor = _Times.apply(codes.value, matrix, codes)
    return result


def encoded(
    codes: Codes,
    x: Float[Tensor, "batch d_in"],
    W_enc: Float[Tensor, "d_in d_sae"],
    b_enc: Float[Tensor, " d_sae"],
) -> Codes:
    """The same codes, differentiable: each value is that of x W_enc + b_enc at its place.

    Which entries there are is taken as given, as it should be: it changes by jumps.
    """
    return codes.with_value(_Encoded.apply(x, W_enc, b_enc, codes))


class _Times(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, matrix: Tensor, codes: Codes) -> Tensor:
        ctx.codes = codes.with_value(value.detach())
        ctx.save_for_backward(matrix)
        return row_sums(ctx.codes, ctx.codes.value, matrix)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (matrix,) = ctx.saved_tensors
        gradient = gradient.to(matrix.dtype).contiguous()
        by_value = entry_dots(ctx.codes, gradient, matrix) if ctx.needs_input_grad[0] else None
        by_matrix = feature_sums(ctx.codes, ctx.codes.value, gradient) if ctx.needs_input_grad[1] else None
        return by_value, by_matrix, None


class _Encoded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, codes: Codes) -> Tensor:
        ctx.codes = codes
        ctx.save_for_backward(x, W_enc)
        return codes.value.detach().clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc = ctx.saved_tensors
        codes: Codes = ctx.codes
        gradient = gradient.to(W_enc.dtype)
        by_x = row_sums(codes, gradient, W_enc.t()) if ctx.needs_input_grad[0] else None
        by_W_enc = feature_sums(codes, gradient, x.to(W_enc.dtype)).t() if ctx.needs_input_grad[1] else None
        by_b_enc = gradient.new_zeros(codes.d_sae).index_add_(0, codes.feature, gradient)
        return by_x, by_W_enc, by_b_enc, None


def row_sums(
    codes: Codes, value: Float[Tensor, " active"], matrix: Float[Tensor, "d_sae width"]
) -> Float[Tensor, "batch width"]:
    """For each row, the sum of value * matrix[feature] over its entries."""
    return _weighted_sums(codes.start, codes.feature, value, matrix)


def feature_sums(
    codes: Codes, value: Float[Tensor, " active"], matrix: Float[Tensor, "batch width"]
) -> Float[Tensor, "d_sae width"]:
    """For each feature, the sum of value * matrix[row] over its entries."""
    start, order = codes.by_feature
    return _weighted_sums(start, codes.row[order], value[order], matrix)


def entry_dots(
    codes: Codes, a: Float[Tensor, "batch width"], b: Float[Tensor, "d_sae width"]
) -> Float[Tensor, " active"]:
    """a[row] . b[feature] for each entry."""
    if on_cpu(a):
        result: Tensor = compiled(kernels.entry_dots, codes.start, codes.feature, a.contiguous(), b.contiguous())
        return result
    pairs = zip(codes.row.split(ENTRIES), codes.feature.split(ENTRIES), strict=True)
    return torch.cat([(a[row] * b[feature]).sum(dim=1) for row, feature in pairs])


def _weighted_sums(start: Tensor, index: Tensor, weight: Tensor, matrix: Tensor) -> Tensor:
    matrix = matrix.detach() if matrix.dtype == torch.float64 else matrix.detach().float()
    if on_cpu(matrix):
        result: Tensor = compiled(kernels.weighted_sums, start, index, weight.to(matrix.dtype), matrix.contiguous())
        return result
    return reference_sums(start, index, weight.to(matrix.dtype), matrix)


def reference_sums(start: Tensor, index: Tensor, weight: Tensor, matrix: Tensor) -> Tensor:
    """For each group n, the sum of weight[e] * matrix[index[e]], e from start[n] to start[n + 1]: for any device."""
    shape = (start.numel() - 1, len(matrix))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Ss]parse.*(beta|invariant)", category=UserWarning)
        return torch.sparse_csr_tensor(start, index, weight, shape, check_invariants=False) @ matrix
