"""Fast paths on CPUs, in numba; what each computes is said, and tested against, where it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[Any]


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


@njit(cache=True, inline="always")
def _less(bits: Ints, column: Ints, a: int, b: int) -> bool:
    """Whether heap entry a gives way before entry b: the smaller number, and of equal ones the later column."""
    return bits[a] < bits[b] or (bits[a] == bits[b] and column[a] > column[b])


@njit(cache=True, inline="always")
def _swap(x: Ints, a: int, b: int) -> None:
    kept = x[a]
    x[a] = x[b]
    x[b] = kept


@njit(cache=True)
def _sift_down(bits: Ints, column: Ints, size: int) -> None:
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            return
        if child + 1 < size and _less(bits, column, child + 1, child):
            child += 1
        if not _less(bits, column, child, at):
            return
        _swap(bits, child, at)
        _swap(column, child, at)
        at = child


@njit(cache=True)
def _sift_up(bits: Ints, column: Ints, at: int) -> None:
    while at > 0:
        parent = (at - 1) // 2
        if not _less(bits, column, at, parent):
            return
        _swap(bits, parent, at)
        _swap(column, parent, at)
        at = parent


@njit(parallel=True, cache=True)
def largest_of_rows(bits: Ints, k: int) -> tuple[Ints, Ints]:
    """Columns of the k largest positive numbers of each row, ascending, and how many there are.

    Numbers come by their bits: those of positive floating-point numbers are in the numbers' order, and negative ones
    have negative bits.
    """
    rows, width = bits.shape
    chosen = np.zeros((rows, k), np.int64)
    counts = np.zeros(rows, np.int64)
    for row in prange(rows):
        heap = np.zeros(k, bits.dtype)
        column = chosen[row]
        size = 0
        least = bits.dtype.type(0)  # numbers up to this one are not wanted
        for first in range(0, width, 64):
            last = min(first + 64, width)
            peak = bits.dtype.type(0)
            for i in range(first, last):
                peak = max(peak, bits[row, i])
            if peak <= least:
                continue
            for i in range(first, last):
                if bits[row, i] <= least:
                    continue
                if size < k:
                    heap[size] = bits[row, i]
                    column[size] = i
                    _sift_up(heap, column, size)
                    size += 1
                else:
                    heap[0] = bits[row, i]
                    column[0] = i
                    _sift_down(heap, column, size)
                if size == k:
                    least = heap[0]
        counts[row] = size
        column[:size].sort()
    return chosen, counts


@njit(parallel=True, cache=True)
def above(bits: Ints, floor: int) -> tuple[Ints, Ints]:
    """Row starts and columns of the numbers whose bits are above a floor."""
    rows, width = bits.shape
    start = np.zeros(rows + 1, np.int64)
    for row in prange(rows):
        count = 0
        for i in range(width):
            count += bits[row, i] > floor
        start[row + 1] = count
    for row in range(rows):
        start[row + 1] += start[row]
    column = np.empty(start[rows], np.int64)
    for row in prange(rows):
        at = start[row]
        for i in range(width):
            if bits[row, i] > floor:
                column[at] = i
                at += 1
    return start, column
