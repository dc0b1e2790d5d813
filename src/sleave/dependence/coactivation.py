"""Walking what fires together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from sleave.codes.codes import Codes
from sleave.codes.compiled import compiled, on_cpu
from sleave.dependence import kernels, pair_kernels
from sleave.dependence.pairs import num_pairs
from sleave.dependence.scores import check_memory

CHUNK = 1 << 24  # co-activations that the plain way holds at once
LISTED = 100.0  # bytes for each pair that fires together, at the peak, while all are listed
# A co-activation takes about as long as so many terms of a product of columns in a number format: measured on CPUs,
# counted for GPUs (`benchmarks.scaling_elsewhere`).
WALK = {"bfloat16": 3000.0, "float32": 400.0, "float64": 200.0, "cuda": 12_000.0}


def dots(codes: Codes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(i, j), on how many rows both fire, and f_i.f_j in float64, for every pair that fires together, in order.

    Raises:
        NotEnoughMemory: there are too many.
    """
    most = min(codes.coactivations, num_pairs(codes.d_sae))
    what = f"Up to {most:,} pairs of {codes.d_sae:,} features that fire together"
    check_memory(LISTED * most, what, "Give fewer rows, or codes of which fewer fire.", codes.device)
    if not on_cpu(codes):
        return reference_dots(codes)
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
    return i, *(compiled(pair_kernels.packed, offset, first, v) for v in (partner, *values))


def entries_together(codes: Codes) -> Iterator[tuple[Int[Tensor, " n"], Int[Tensor, " n"]]]:
    """Every two entries of a row, the earlier feature's first, some rows at a time: the plain way, for any device."""
    per_row = codes.start.diff()
    upto = (per_row * (per_row - 1) // 2).cumsum(0)
    row = done = 0
    while row < codes.rows:
        last = max(row + 1, int(torch.searchsorted(upto, done + CHUNK, right=True)))
        entry = torch.arange(int(codes.start[row]), int(codes.start[last]), device=codes.device)
        later = codes.start[codes.row[entry] + 1] - entry - 1
        first = torch.repeat_interleave(entry, later)
        before = torch.repeat_interleave(later.cumsum(0) - later, later)
        yield first, first + 1 + torch.arange(len(first), device=codes.device) - before
        row, done = last, int(upto[last - 1])


def reference_dots(codes: Codes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `dots`: the plain torch reference, for any device."""
    value = codes.value.double()
    keys, together, dot = [], [], []
    for a, b in entries_together(codes):
        key, place = (codes.feature[a] * codes.d_sae + codes.feature[b]).unique(return_inverse=True)
        keys.append(key)
        together.append(torch.bincount(place, minlength=len(key)))
        dot.append(value.new_zeros(len(key)).index_add_(0, place, value[a] * value[b]))
    key, sums = summed(keys, together, dot)
    return key // codes.d_sae, key % codes.d_sae, sums[0], sums[1]


def summed(keys: Sequence[Tensor], *values: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The different keys of several parts, ascending, and the sums of their values."""
    if len(keys) == 1:
        return keys[0], [v[0] for v in values]
    key, place = torch.cat(list(keys)).unique(return_inverse=True)
    return key, [v[0].new_zeros(len(key)).index_add_(0, place, torch.cat(list(v))) for v in values]
