"""sum over chosen pairs of w_ij C_ij^2, with the gradient by one sparse product."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from sleave.dependence.correlation import Measure, pair_correlation, unit_columns


def pair_penalty(
    acts: Float[Tensor, "batch d_sae"],
    i: Int[Tensor, " pairs"],
    j: Int[Tensor, " pairs"],
    weight: Float[Tensor, " pairs"],
    measure: Measure = "cosine",
) -> Float[Tensor, ""]:
    """sum_T w_ij C_ij^2 over the pairs T = (i, j), differentiable in the codes (not in the weights).

    With Z the unit columns and S the symmetric sparse matrix S_ij = 2 w_ij C_ij, the gradient in column i is
    (S Z - diag(S C) Z)_i / |f_i|: the norms are differentiated too, so scaling a feature up or down gains nothing.

    Args:
        acts: the codes. Computed in float64 if they are, in float32 otherwise.
        i, j: the pairs, each listed once.
        weight: one number per pair.
        measure: what C is.

    Reference: *Top-k feature decorrelation*, the last term of Eq. (7).
    """
    result: Tensor = _PairPenalty.apply(acts, i, j, weight, measure)
    return result


class _PairPenalty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, acts: Tensor, i: Tensor, j: Tensor, weight: Tensor, measure: Measure) -> Tensor:
        with torch.autocast(acts.device.type, enabled=False):
            features, index = torch.cat([i, j]).unique(return_inverse=True)
            i, j = index.chunk(2)
            unit, inverse = unit_columns(acts[:, features], measure)
            correlation = pair_correlation(unit, i, j)
            weight = weight.to(unit.dtype)
            ctx.save_for_backward(features, i, j, unit, inverse, correlation, weight)
            ctx.acts = (acts.shape, acts.dtype)
            return (weight * correlation.square()).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        features, i, j, unit, inverse, correlation, weight = ctx.saved_tensors
        shape, dtype = ctx.acts
        with torch.autocast(unit.device.type, enabled=False):
            slope = 2 * weight * correlation
            pull = torch.zeros_like(inverse)
            pull.index_add_(0, i, slope * correlation).index_add_(0, j, slope * correlation)
            own = torch.arange(features.numel(), device=i.device)
            matrix = _sparse(
                torch.cat([i, j, own]), torch.cat([j, i, own]), torch.cat([slope, slope, -pull]), features.numel()
            )
            columns = (matrix @ unit).mul_((inverse * grad_output)[:, None])
            grad = columns.new_zeros(shape)
            grad[:, features] = columns.t()
        return grad.to(dtype), None, None, None, None


def _sparse(row: Tensor, column: Tensor, value: Tensor, size: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Ss]parse.*(beta|invariant)", category=UserWarning)
        return torch.sparse_coo_tensor(
            torch.stack([row, column]), value, (size, size), check_invariants=False
        ).to_sparse_csr()
