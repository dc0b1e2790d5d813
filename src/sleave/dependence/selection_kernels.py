"""The strongest pairs of what fires together, in numba; what is computed is said and tested in `selection`."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(cache=True)
def _keep_best(i, j, score, filled, count):
    """The `count` largest of the first `filled` move to the front, in their order; of equal ones the first."""
    least = np.partition(score[:filled], filled - count)[filled - count]
    ties = count
    for n in range(filled):
        ties -= score[n] > least
    kept = 0
    for n in range(filled):
        if score[n] > least or (score[n] == least and ties > 0):
            ties -= score[n] == least
            i[kept], j[kept], score[kept] = i[n], j[n], score[n]
            kept += 1
    return least


@njit(cache=True)
def _by_partner(j, score, first, last):
    """One feature's pairs in the order of the other feature."""
    order = np.argsort(j[first:last])
    j[first:last], score[first:last] = j[first:last][order], score[first:last][order]


@njit(parallel=True, cache=True)
def strongest(row_start, feature, value, column_start, order, row, inverse, count, noise, least_rows, shrinkage, parts):
    """Pairs with the largest |C_ij|, uncentred, above `noise`, of those that fire together on so many rows at least.

    What each part has found is in the order of (i, j), in its own row of the results; the `count` largest of all are
    among them, of equal ones the first. Only candidates are ever held: a pair is scored and forgotten.
    """
    d_sae = column_start.size - 1
    most = 0
    for n in range(row_start.size - 1):
        most += (row_start[n + 1] - row_start[n]) * (row_start[n + 1] - row_start[n] - 1) // 2
    room = max(1, min(2 * count + d_sae, most))
    first, second = np.empty((parts, room), np.int64), np.empty((parts, room), np.int64)
    score = np.empty((parts, room), value.dtype)
    found = np.zeros(parts, np.int64)
    for part in prange(parts):
        dot, together = np.zeros(d_sae, np.float64), np.zeros(d_sae, np.int32)
        partner = np.empty(d_sae + 1, np.int32)  # one more is written than is kept
        mine_i, mine_j, mine = first[part], second[part], score[part]
        cut = float(noise)
        filled = 0
        for i in range(part, d_sae, parts):
            partners = 0
            for n in range(column_start[i], column_start[i + 1]):
                entry = order[n]
                x = np.float64(value[entry])  # float() would leave it as it is stored
                for m in range(entry + 1, row_start[row[entry] + 1]):
                    j = feature[m]
                    partner[partners] = j
                    partners += together[j] == 0
                    together[j] += 1
                    dot[j] += x * value[m]
            begin = filled
            for n in range(partners):
                j = partner[n]
                strength = abs(dot[j] * inverse[i] * inverse[j])
                if shrinkage > 0:
                    strength *= together[j] / (together[j] + shrinkage)
                enough = together[j] >= least_rows
                dot[j], together[j] = 0.0, 0
                if strength >= cut and enough:
                    mine[filled] = strength  # as it is stored, so that equal ones are equal
                    if mine[filled] > cut:
                        mine_i[filled], mine_j[filled] = i, j
                        filled += 1
            if filled > begin + 1:
                _by_partner(mine_j, mine, begin, filled)
            if filled >= 2 * count:
                cut = float(_keep_best(mine_i, mine_j, mine, filled, count))
                filled = count
        found[part] = filled
    return first, second, score, found
