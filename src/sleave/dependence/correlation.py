"""Correlation of feature columns: uncentred cosine (the paper's) and Pearson.

Everything here works on the transposed codes (d_sae, batch), because a pair needs two whole columns of the codes and
rows of a transposed copy are contiguous.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sleave.base.errors import SleaveError, check_one_of
from sleave.base.ranks import ALONE, Ranks
from sleave.dependence.pairs import chunks

Measure = Literal["cosine", "pearson"]


def check_measure(measure: str) -> Measure:
    """The measure of that name.

    Raises:
        SleaveError: there is none.
    """
    check_one_of("measure", measure, get_args(Measure))
    return cast(Measure, measure)


def unit_columns(
    acts: Float[Tensor, "batch d_sae"], measure: Measure = "cosine", ranks: Ranks = ALONE
) -> tuple[Float[Tensor, "d_sae batch"], Float[Tensor, " d_sae"]]:
    """Feature columns scaled to norm one (and centred first for Pearson), so that C = Z Z^T; and their inverse norms.

    A feature that never fires (or is constant, for Pearson) has Z = 0 and an inverse norm of 0: its correlation with
    anything counts as 0.

    Args:
        acts: the codes; float64 stays float64, anything else is computed in float32.
        measure: `cosine` is f_i.f_j / (|f_i| |f_j|), the paper's; `pearson` subtracts the means first.
        ranks: over which columns go on; each has as many rows.

    Raises:
        SleaveError: the codes hold NaN or infinite values, or are not a matrix.

    Reference: *Top-k feature decorrelation*, Eq. (4).
    """
    if acts.ndim != 2:
        raise SleaveError(f"`acts` has shape {tuple(acts.shape)}; it must be (batch, d_sae).")
    columns = copied_columns(acts)
    norms = _norms(columns, ranks)
    if not bool(torch.isfinite(norms).all()):
        bad = int((~torch.isfinite(norms)).sum())
        raise SleaveError(
            f"`acts` holds NaN or infinite values in {bad} of {norms.numel()} features; "
            "no correlation can be computed. Check the inputs, or lower the learning rate."
        )
    if measure == "pearson":
        mean = ranks.mean(columns.mean(dim=1, keepdim=True))
        columns = columns - mean
        centred = _norms(columns, ranks)
        # Rounding leaves a constant column with a tiny remainder, which would be scaled up to pure noise.
        norms = torch.where(centred > 1e-6 * norms, centred, 0)
    inverse = torch.where(norms > 0, 1 / norms, 0)
    return columns.mul_(inverse[:, None]), inverse


def _norms(columns: Tensor, ranks: Ranks) -> Tensor:
    norms = torch.linalg.vector_norm(columns, dim=1)
    return norms if ranks.size == 1 else ranks.sum(norms.square()).sqrt()


def copied_columns(acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "d_sae batch"]:
    """Feature columns, in float64 if the codes are and in float32 otherwise; a copy, which may be changed.

    Asked for as one, since transposing a single row or column would only be a view.
    """
    dtype = torch.float64 if acts.dtype == torch.float64 else torch.float32
    return acts.detach().t().to(dtype=dtype, copy=True, memory_format=torch.contiguous_format)


def pair_correlation(
    unit: Float[Tensor, "d_sae batch"], i: Int[Tensor, " pairs"], j: Int[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """C_ij of some pairs, from unit columns; every pair is summed in the same order, so equal columns tie exactly."""
    parts = [(unit[i[s]] * unit[j[s]]).sum(dim=1) for s in chunks(i.numel(), unit.shape[1])]
    return torch.cat(parts) if parts else unit.new_zeros(0)
