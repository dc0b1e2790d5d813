"""The strongest pairs of what fires together, in numba; what is computed is said and tested in `selection`."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

DROPPED = 15  # bits of a float32 that a bin of scores is too coarse for: 256 bins an octave are left


@njit(cache=True)
def _bin(score):
    """Ascends with the score, which is not negative; above 1.5, where only norms that underflow bring it, no more."""
    return np.int64(np.float32(min(score, 1.5)).view(np.uint32) >> np.uint32(DROPPED))


@njit(cache=True)
def _below(place):
    """The largest float32 below all scores of a bin."""
    return np.float64(np.uint32((place << DROPPED) - 1).view(np.float32))


@njit(cache=True)
def _keep_from(i, j, score, filled, cut):
    """Pairs with a score of `cut` or more move to the front, in their order."""
    kept = 0
    for n in range(filled):
        i[kept], j[kept], score[kept] = i[n], j[n], score[n]
        kept += score[n] >= cut
    return kept


@njit(cache=True)
def _keep_best(i, j, score, filled, count):
    """The `count` largest move to the front; of equal ones the first in the order of (i, j). Pairs come by i."""
    least = np.partition(score[:filled], filled - count)[filled - count]
    ties = count
    for n in range(filled):
        ties -= score[n] > least
    kept = first = 0
    while first < filled:
        last = first + 1
        while last < filled and i[last] == i[first]:
            last += 1
        order = first + np.argsort(j[first:last])
        own = i[first]
        partner, strength = j[order], score[order]
        for n in range(last - first):
            if strength[n] > least or (strength[n] == least and ties > 0):
                ties -= strength[n] == least
                i[kept], j[kept], score[kept] = own, partner[n], strength[n]
                kept += 1
        first = last
    return least


@njit(parallel=True, cache=True)
def strongest(row_start, feature, unit, column_start, order, row, like, count, noise, least_rows, shrinkage, parts):
    """Pairs with the largest |C_ij|, uncentred, above `noise`, of those that fire together on so many rows at least.

    `unit` are codes over their columns' norms; scores are stored as `like` is. What each part has found comes by i, in
    its own row of the results; the `count` largest of all are among them, of equal ones the first in the order of
    (i, j). Only candidates are ever held: how many have been seen in each bin of scores says above which score `count`
    are known, and what is not above it is forgotten. (Indices are unsigned for the reason that `span` gives.)
    """
    d_sae = column_start.size - 1
    most = 0
    for n in range(row_start.size - 1):
        most += (row_start[n + 1] - row_start[n]) * (row_start[n + 1] - row_start[n] - 1) // 2
    room = max(1, min(2 * count + d_sae, most))
    first, second = np.empty((parts, room), np.int64), np.empty((parts, room), np.int64)
    score = np.empty((parts, room), like.dtype)
    found = np.zeros(parts, np.int64)
    for part in prange(parts):
        dot, together = np.zeros(d_sae, np.float64), np.zeros(d_sae, np.int32)
        # Of one feature, first those that it fires with, then those of them that may count; one more is written.
        partner, strong = np.empty(d_sae + 1, np.uint32), np.empty(d_sae + 1, like.dtype)
        mine_i, mine_j, mine = first[part], second[part], score[part]
        seen = np.zeros(_bin(1.5) + 1, np.int32)  # from the lowest bin on, they add up to `above`
        lowest, above, cut = _bin(noise), 0, np.float64(noise)
        filled = 0
        for i in range(part, d_sae, parts):
            partners = 0
            for n in range(column_start[i], column_start[i + 1]):
                entry = order[n]
                x = unit[entry]
                for m in range(np.uint64(entry + 1), np.uint64(row_start[row[entry] + 1])):
                    j = feature[m]
                    partner[partners] = j
                    partners += together[j] == 0
                    together[j] += 1
                    dot[j] += x * unit[m]
            kept = 0
            for n in range(partners):
                j = partner[n]
                strength, rows = abs(dot[j]), together[j]
                dot[j], together[j] = 0.0, 0
                if shrinkage > 0:
                    strength *= rows / (rows + shrinkage)
                partner[kept], strong[kept] = j, strength  # as it is stored, so that equal ones are equal
                kept += (strong[kept] > cut) & (rows >= least_rows)
            for n in range(kept):
                mine_i[filled], mine_j[filled], mine[filled] = i, partner[n], strong[n]
                filled += 1
                seen[_bin(strong[n])] += 1
            above += kept
            if above - seen[lowest] >= count:
                while above - seen[lowest] >= count:
                    above -= seen[lowest]
                    lowest += 1
                cut = _below(lowest)
            if filled >= 2 * count:
                filled = _keep_from(mine_i, mine_j, mine, filled, cut)
                if filled >= 2 * count:  # too many in one bin
                    cut = np.float64(_keep_best(mine_i, mine_j, mine, filled, count))
                    filled = count
        found[part] = _keep_from(mine_i, mine_j, mine, filled, cut)
    return first, second, score, found
