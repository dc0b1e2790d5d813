"""Walking what fires together, on a CPU."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from sleave.codes.codes import Codes
from sleave.codes.compiled import compiled
from sleave.dependence import kernels


def dots(codes: Codes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(i, j), on how many rows both fire, and f_i.f_j in float64, for every pair that fires together."""
    start, order = codes.by_feature
    offset = slots(codes)
    entries = (codes.start, codes.feature, codes.value, start, order, codes.row)
    partner, together, dot, found = compiled(kernels.dots_from_coactivations, *entries, offset, torch.get_num_threads())
    i, j, together, dot = listed(offset, found, partner, together, dot)
    return i, j, together, dot


def slots(codes: Codes, shift: int = 0) -> Int[Tensor, " d_sae_plus_1"]:
    """Where a kernel may put each feature's pairs with later ones: no more than its co-activations, nor than there
    are later features. With the first feature of a pair shifted by so many rows, if asked."""
    per_row = codes.start.diff().roll(-shift)
    room = torch.zeros(codes.d_sae, dtype=torch.int64).index_add_(0, codes.feature, per_row[codes.row])
    room = torch.minimum(room, torch.arange(codes.d_sae - 1, -1, -1))
    return torch.cat([room.new_zeros(1), room.cumsum(0)])


def listed(offset: Tensor, found: Tensor, partner: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
    """(i, j, values) of pairs that a kernel left in slots, each feature's from its offset."""
    i = torch.repeat_interleave(torch.arange(found.numel()), found)
    if i.numel() == partner.numel():
        return i, partner, *values
    first = torch.cat([found.new_zeros(1), found.cumsum(0)])
    return i, *(compiled(kernels.packed, offset, first, v) for v in (partner, *values))
