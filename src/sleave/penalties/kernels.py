"""Fast paths on CPUs, in numba; what each computes is said, and tested against, in `pairwise`."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(parallel=True, cache=True)
def correlations(row_start, feature, value, row, start, order, near, partner, number, mean, inverse, parts):
    """C_ij of each pair: codes less `mean`, times `inverse`, summed over the rows on which both fire.

    Feature i's partners are partner[near[i]:near[i + 1]], ascending, and number[...] says which pair each is of.
    """
    d_sae = start.size - 1
    rows = row_start.size - 1
    result = np.empty(number.size // 2, np.float64)
    for part in prange(parts):
        dot = np.zeros(d_sae, np.float64)
        for i in range(part, d_sae, parts):
            first = near[i] + np.searchsorted(partner[near[i] : near[i + 1]], i + 1)  # each pair once
            if first == near[i + 1]:
                continue
            walked = 0
            for n in range(start[i], start[i + 1]):
                entry = order[n]
                x = value[entry]
                for m in range(entry + 1, row_start[row[entry] + 1]):
                    dot[feature[m]] += x * value[m]
                walked += row_start[row[entry] + 1] - entry
            for n in range(first, near[i + 1]):
                j = partner[n]
                result[number[n]] = (dot[j] - rows * mean[i] * mean[j]) * inverse[i] * inverse[j]
            if walked > d_sae // 4:
                dot[:] = 0.0
            else:
                for n in range(start[i], start[i + 1]):
                    entry = order[n]
                    for m in range(entry + 1, row_start[row[entry] + 1]):
                        dot[feature[m]] = 0.0
    return result


@njit(cache=True, fastmath={"reassoc", "contract"})
def _along(slope, feature, value):
    total = 0.0
    for m in range(feature.size):
        total += slope[feature[m]] * value[m]
    return total


@njit(parallel=True, cache=True)
def gradient(row_start, feature, value, row, start, order, near, partner, number, slopes, mean, inverse, pull, parts):
    """The gradient of a sum over pairs of functions of C_ij at every entry that fires.

    slopes are (S_ij, S_ij C_ij) of each pair, S the derivative of its function; `pull` is 1, or 0 where the norms are
    not differentiated.
    """
    d_sae = start.size - 1
    result = np.zeros(value.size, np.float64)
    for part in prange(parts):
        slope = np.zeros(d_sae, np.float64)
        for i in range(part, d_sae, parts):
            if near[i] == near[i + 1] or start[i] == start[i + 1]:
                continue
            own = shift = 0.0
            for n in range(near[i], near[i + 1]):
                j, of = partner[n], number[n]
                own += slopes[of, 1]
                slope[j] = slopes[of, 0] * inverse[j]
                shift += slope[j] * mean[j]
            for n in range(start[i], start[i + 1]):
                entry = order[n]
                inside = slice(row_start[row[entry]], row_start[row[entry] + 1])
                along = _along(slope, feature[inside], value[inside]) - shift
                along -= pull * own * (value[entry] - mean[i]) * inverse[i]
                result[entry] = along * inverse[i]
            for n in range(near[i], near[i + 1]):
                slope[partner[n]] = 0.0
    return result


@njit(parallel=True, cache=True)
def uncentred(row_start, feature, value, row, start, order, near, partner, weight, inverse, pull, power, parts):
    """Twice `power` times the sum over pairs of w_ij C_ij^power, and its gradient as `gradient` has it, in one go.

    C is not centred: so it is 0 of two features that never fire together, and pairs that don't are only passed over.
    weight[n] is that of feature i and partner[n], near[i] <= n < near[i + 1].
    """
    d_sae = start.size - 1
    result = np.zeros(value.size, np.float64)
    totals = np.zeros(parts, np.float64)
    for part in prange(parts):
        slope = np.zeros(d_sae, np.float64)
        dot = np.zeros(d_sae, np.float64)
        for i in range(part, d_sae, parts):
            if near[i] == near[i + 1] or start[i] == start[i + 1]:
                continue
            walked = 0
            if power == 2:
                for n in range(start[i], start[i + 1]):
                    entry = order[n]
                    x = value[entry]
                    for m in range(row_start[row[entry]], row_start[row[entry] + 1]):
                        dot[feature[m]] += x * value[m]
                    walked += row_start[row[entry] + 1] - row_start[row[entry]]
                for n in range(near[i], near[i + 1]):
                    j = partner[n]
                    slope[j] = 2 * weight[n] * dot[j] * inverse[i] * inverse[j] * inverse[j]
            else:
                for n in range(near[i], near[i + 1]):
                    slope[partner[n]] = weight[n] * inverse[partner[n]]
            own = 0.0
            for n in range(start[i], start[i + 1]):
                entry = order[n]
                inside = slice(row_start[row[entry]], row_start[row[entry] + 1])
                along = _along(slope, feature[inside], value[inside]) * inverse[i]
                own += along * value[entry]  # in the end the sum over j of S_ij C_ij
                result[entry] = along
            totals[part] += own
            for n in range(start[i], start[i + 1]):
                result[order[n]] -= pull * own * value[order[n]] * inverse[i] * inverse[i]
            for n in range(near[i], near[i + 1]):
                slope[partner[n]] = 0.0
            if walked > d_sae // 4:
                dot[:] = 0.0
            elif power == 2:
                for n in range(start[i], start[i + 1]):
                    entry = order[n]
                    for m in range(row_start[row[entry]], row_start[row[entry] + 1]):
                        dot[feature[m]] = 0.0
    return totals.sum(), result
