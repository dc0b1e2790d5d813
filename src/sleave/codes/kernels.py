"""Fast paths on CPUs, in numba; what each computes is said, and tested against, where it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from sleave.codes.number_kernels import number

Ints = NDArray[np.int64]
Floats = NDArray[Any]
DEEP = 32  # at most so many columns are passed over together when the largest of them is too small


@njit(cache=True)
def span(start: Ints, n: int) -> range:
    """The places from start[n] to start[n + 1], unsigned: an index that cannot count from the end is faster."""
    return range(np.uint64(start[n]), np.uint64(start[n + 1]))


@njit(parallel=True, cache=True)
def count_nonzero(bits: Ints, magnitude: int) -> Ints:
    """How many numbers of each row are not zero, by their bits without the sign."""
    counts = np.zeros(bits.shape[0], np.int64)
    for row in prange(bits.shape[0]):
        count = 0
        for i in range(bits.shape[1]):
            count += (bits[row, i] & magnitude) != 0
        counts[row] = count
    return counts


@njit(parallel=True, cache=True)
def compress(acts: Floats) -> tuple[Ints, Ints, Floats]:
    """Row starts, features and values of what is not zero in (batch, d_sae)."""
    rows, d_sae = acts.shape
    start = np.zeros(rows + 1, np.int64)
    for row in prange(rows):
        count = 0
        for i in range(d_sae):
            count += acts[row, i] != 0
        start[row + 1] = count
    for row in range(rows):
        start[row + 1] += start[row]
    feature = np.empty(start[rows], np.int64)
    value = np.empty(start[rows], acts.dtype)
    for row in prange(rows):
        at = start[row]
        for i in range(d_sae):
            if acts[row, i] != 0:
                feature[at] = i
                value[at] = acts[row, i]
                at += 1
    return start, feature, value


@njit(cache=True)
def order_by_feature(feature: Ints, start: Ints) -> Ints:
    """The stable order of entries by feature, given where each feature begins in it."""
    at = start.copy()
    order = np.empty(feature.size, np.int64)
    for n in range(feature.size):
        order[at[feature[n]]] = n
        at[feature[n]] += 1
    return order


@njit(parallel=True, cache=True)
def weighted_sums(start: Ints, index: Ints, weight: Floats, matrix: Floats) -> Floats:
    """For each group n, the sum over its entries e in start[n] .. start[n + 1] of weight[e] * matrix[index[e]]."""
    groups = start.size - 1
    width = matrix.shape[1]
    out = np.zeros((groups, width), matrix.dtype)
    for n in prange(groups):
        for e in range(start[n], start[n + 1]):
            factor = weight[e]
            source = index[e]
            for d in range(width):
                out[n, d] += factor * matrix[source, d]
    return out


@njit(parallel=True, cache=True, fastmath={"reassoc", "contract"})
def entry_dots(start: Ints, feature: Ints, a: Floats, b: Floats) -> Floats:
    """a[row] . b[feature] for every entry."""
    out = np.empty(feature.size, a.dtype)
    for row in prange(start.size - 1):
        for e in range(start[row], start[row + 1]):
            other = feature[e]
            total = a.dtype.type(0)
            for d in range(a.shape[1]):
                total += a[row, d] * b[other, d]
            out[e] = total
    return out


@njit(parallel=True, cache=True)
def largest_of_rows(product: Floats, bias: Floats, k: int, parts: int) -> tuple[Ints, Ints, Floats]:
    """The k largest positive numbers of each row of product + bias: their columns, ascending; how many; themselves.

    The k-th largest of the peaks of groups of columns is a bound that k numbers reach at least, and few others do.
    """
    rows, width = product.shape
    chosen, counts = np.zeros((rows, k), np.int64), np.zeros(rows, np.int64)
    values = np.zeros((rows, k), np.float32)
    deep = max(1, min(DEEP, width // (4 * max(k, 1))))
    groups = (width + deep - 1) // deep  # of columns that are `groups` apart: so all peaks are taken side by side
    for part in prange(parts):
        bits = np.zeros(groups * deep, np.int32)  # positive numbers' are in their order, negative ones' negative
        peaks = np.empty(groups, np.int32)
        candidate = np.empty(width + 1, np.int64)
        for row in range(part, rows, parts):
            own = product[row]
            for i in range(width):
                bits[i] = np.float32(number(own[i]) + bias[i]).view(np.int32)
            peaks[:] = 0
            for n in range(deep):
                for group in range(groups):
                    peaks[group] = max(peaks[group], bits[n * groups + group])
            bound = np.int32(1)
            if groups > k:
                bound = max(bound, np.partition(peaks, groups - k)[groups - k])
            found = 0
            for group in range(groups):
                if peaks[group] >= bound:
                    for n in range(deep):
                        candidate[found] = n * groups + group
                        found += bits[n * groups + group] >= bound
            column = np.sort(candidate[:found])
            ties = k
            if found > k:
                among = bits[column]
                bound = np.partition(among, found - k)[found - k]
                ties = k - np.sum(among > bound)
            count = 0
            for i in column:
                if bits[i] > bound or (bits[i] == bound and ties > 0):
                    ties -= bits[i] == bound
                    chosen[row, count] = i
                    values[row, count] = bits[i : i + 1].view(np.float32)[0]
                    count += 1
            counts[row] = count
    return chosen, counts, values


@njit(parallel=True, cache=True)
def above(product: Floats, bias: Floats, floor: float) -> tuple[Ints, Ints, Floats]:
    """Row starts, columns and values of the numbers of product + bias that are above a floor."""
    rows, width = product.shape
    least = np.float32(floor)
    start = np.zeros(rows + 1, np.int64)
    for row in prange(rows):
        count = np.int32(0)
        for i in range(width):
            count += np.int32(number(product[row, i]) + bias[i] > least)
        start[row + 1] = count
    for row in range(rows):
        start[row + 1] += start[row]
    column, value = np.empty(start[rows], np.int64), np.empty(start[rows], np.float32)
    for row in prange(rows):
        at = start[row]
        for i in range(width):
            if number(product[row, i]) + bias[i] > least:
                column[at] = i
                value[at] = number(product[row, i]) + bias[i]
                at += 1
    return start, column, value
