"""Lists of pairs on CPUs, in numba; what each computes is said, and tested against, where it is used."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(parallel=True, cache=True)
def packed(offset, first, value):
    """What each feature has from its offset on, one after the other: feature i's from first[i] to first[i + 1]."""
    result = np.empty(first[first.size - 1], value.dtype)
    for i in prange(first.size - 1):
        result[first[i] : first[i + 1]] = value[offset[i] : offset[i] + first[i + 1] - first[i]]
    return result


@njit(parallel=True, cache=True)
def above(i, j, score, together, threshold, least, parts):
    """(i, j, score) of pairs with a score above a threshold that fire together on so many rows at least."""
    found = np.zeros(parts + 1, np.int64)
    for part in prange(parts):
        count = 0
        for n in range(score.size * part // parts, score.size * (part + 1) // parts):
            count += score[n] > threshold and together[n] >= least
        found[part + 1] = count
    found = np.cumsum(found)
    count = found[parts]
    first, second, scores = np.empty(count, i.dtype), np.empty(count, j.dtype), np.empty(count, score.dtype)
    for part in prange(parts):
        at = found[part]
        for n in range(score.size * part // parts, score.size * (part + 1) // parts):
            if score[n] > threshold and together[n] >= least:
                first[at], second[at], scores[at] = i[n], j[n], score[n]
                at += 1
    return first, second, scores


@njit(parallel=True, cache=True)
def out_of_order(i, j):
    """How many pairs are not above the one before them in the order of (i, j)."""
    count = 0
    for n in prange(1, i.size):
        count += i[n - 1] > i[n] or (i[n - 1] == i[n] and j[n - 1] >= j[n])
    return count


@njit(parallel=True, cache=True)
def shared(i, j, other_i, other_j, parts):
    """How many pairs are in both of two lists, each in the order of (i, j)."""
    if i.size == 0:
        return 0
    found = np.zeros(parts, np.int64)
    for part in prange(parts):
        # As many of the first list each, by their first feature.
        begin = i[i.size * part // parts] if part else 0
        end = i[i.size * (part + 1) // parts] if part + 1 < parts else np.iinfo(np.int64).max
        n, last = np.searchsorted(i, begin), np.searchsorted(i, end)
        m, other_last = np.searchsorted(other_i, begin), np.searchsorted(other_i, end)
        count = 0
        while n < last and m < other_last:
            a, b = i[n] << 32 | j[n], other_i[m] << 32 | other_j[m]
            count += a == b
            n += a <= b
            m += b <= a
        found[part] = count
    return found.sum()


@njit(parallel=True, cache=True)
def both_ways(i, j, start, lower, parts):
    """Partners and pair numbers of each feature in turn, of pairs in the order of (i, j).

    Feature f's begin at start[f], first its lower[f] partners below it.
    """
    width = lower.size
    partner, number = np.empty(2 * i.size, np.int32), np.empty(2 * i.size, np.int64)
    upto = np.cumsum(lower)
    first = np.zeros(width + 1, np.int64)
    for f in range(width):
        first[f + 1] = first[f] + start[f + 1] - start[f] - lower[f]
    for part in prange(parts):
        # As many pairs each, by their second feature.
        begin = np.searchsorted(upto, i.size * part // parts, side="right") if part else 0
        end = np.searchsorted(upto, i.size * (part + 1) // parts, side="right") if part + 1 < parts else width
        at = start[:-1].copy()
        for n in range(i.size):
            f = j[n]
            if begin <= f < end:
                partner[at[f]], number[at[f]] = i[n], n
                at[f] += 1
    for f in prange(width):
        at = start[f] + lower[f]
        for n in range(first[f], first[f + 1]):
            partner[at + n - first[f]], number[at + n - first[f]] = j[n], n
    return partner, number


@njit(parallel=True, cache=True)
def less(i, j, score, group, expected):
    """Scores less what is expected of the groups of their features."""
    result = np.empty(score.size, score.dtype)
    for n in prange(score.size):
        result[n] = score[n] - expected[group[i[n]], group[j[n]]]
    return result


@njit(parallel=True, cache=True)
def attracted(i, j, score, together, fired, rows):
    """Scores of pairs that fire together more often than chance would have it, if they are above 0; else 0."""
    result = np.zeros(score.size, score.dtype)
    for n in prange(score.size):
        if score[n] > 0 and float(together[n]) * rows > float(fired[i[n]]) * fired[j[n]]:
            result[n] = score[n]
    return result
