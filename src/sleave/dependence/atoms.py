"""Codes as symbols: zero is an atom of its own, and what is not zero is cut into bins of equal count."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sleave.codes.codes import Codes
from sleave.codes.compiled import compiled, on_cpu
from sleave.dependence import kernels

MOST_BINS = 64


@dataclass(frozen=True, eq=False)
class Atoms:
    """Each feature as a symbol per row: 0 where it does not fire, otherwise one of its bins.

    Attributes:
        codes: what was cut.
        num_bins: how many bins the active values of each feature have (the atom at zero not counted).
        bin: the bin, from 0, of each entry of `codes`.
    """

    codes: Codes
    num_bins: Int[Tensor, " d_sae"]
    bin: Shaped[Tensor, " active"]

    @cached_property
    def width(self) -> int:
        """The largest number of bins."""
        return int(self.num_bins.max())

    @cached_property
    def sizes(self) -> Int[Tensor, "d_sae width"]:
        """How many rows each bin has."""
        sizes = torch.zeros(self.codes.d_sae * self.width, dtype=torch.int64, device=self.codes.device)
        at = self.codes.feature * self.width + self.bin
        return sizes.index_add_(0, at, torch.ones_like(at)).view(-1, self.width)


def num_bins(fired: Int[Tensor, " n"], bins: int) -> Int[Tensor, " n"]:
    """How many bins a feature that fires on n rows gets: sqrt(n) / 2, at least one and at most `bins`.

    Fewer would lose what the values tell, and more would count chance as dependence where few rows are co-active.
    benchmarks/estimator_validation.txt has the bias that is left.
    """
    return fired.double().sqrt().div(2).round().long().clamp(1, bins)


def cut(codes: Codes, bins: int) -> Atoms:
    """Cut each feature's active values by rank into bins of equal count.

    Equal values are put in an order of their own by a hash of row and feature. So bin sizes follow from the active
    count alone, and a feature with few different values loses the order among equal ones and nothing else. (An order
    shared by features, such as that of the rows, would make features with a constant value look dependent.)
    """
    counts = num_bins(codes.fired, bins)
    if int(counts.max()) == 1:
        return Atoms(codes, counts, torch.zeros_like(codes.feature, dtype=torch.uint8))
    if not on_cpu(codes):
        return Atoms(codes, counts, reference_bins(codes, counts))
    start, order = codes.by_feature
    bits = codes.value.float().view(torch.int32)
    return Atoms(codes, counts, compiled(kernels.assign_bins, bits, order, codes.row, start, counts))


def reference_bins(codes: Codes, counts: Int[Tensor, " d_sae"]) -> Shaped[Tensor, " active"]:
    """The bin of each entry, given how many bins each feature has: the plain torch reference, for any device."""
    ranked = torch.argsort(_keys(codes))
    ranked = ranked[torch.argsort(codes.feature[ranked], stable=True)]
    feature = codes.feature[ranked]
    rank = torch.arange(feature.numel(), device=feature.device) - codes.by_feature[0][feature]
    bins = torch.empty_like(feature, dtype=torch.uint8)
    bins[ranked] = (rank * counts[feature] // codes.fired[feature]).to(torch.uint8)
    return bins


def _keys(codes: Codes) -> Int[Tensor, " active"]:
    """64-bit numbers that order a feature's entries by value, then by hash, and all differ."""
    bits = codes.value.float().view(torch.int32).long()
    bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # floats below zero are ordered backwards by their bits
    return bits << 32 | _mixed(codes.row ^ _mixed(codes.feature))


def _mixed(x: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """A bijection of 32-bit numbers whose results look random (C. Wellons' hash-prospector, "lowbias32")."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = (x ^ x >> shift) * factor & 0xFFFFFFFF
    return x


def phi(rows: int, device: torch.device | None = None) -> Float[Tensor, " rows_plus_1"]:
    """x ln x for x = 0..rows, in float64: what every entropy of counts is a sum of."""
    x = torch.arange(rows + 1, dtype=torch.float64, device=device)
    return torch.xlogy(x, x)
