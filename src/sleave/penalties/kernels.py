"""Fast paths on CPUs, in numba; what each computes is said, and tested against, in `pairwise`."""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from sleave.codes.kernels import span


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
                x = np.float64(value[entry])
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
            for n in span(near, i):
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
            for n in span(near, i):
                slope[partner[n]] = 0.0
    return result


@njit(cache=True)
def _along_rows(i, weight, power, beside, correlation, slope, rows, columns, pairs, result):
    """What feature i's partners add at each of its entries: its rows walked, `beside` entries in all."""
    (row_start, feature, by_row), (start, row, by_feature), (near, partner) = rows, columns, pairs
    if power == 2:
        for n in range(start[i], start[i + 1]):
            x = np.float64(by_feature[n])
            for m in span(row_start, row[n]):
                correlation[feature[m]] += x * by_row[m]
    for n in span(near, i):
        slope[partner[n]] = weight[n] * (2 * correlation[partner[n]] if power == 2 else 1.0)
    for n in range(start[i], start[i + 1]):
        inside = slice(row_start[row[n]], row_start[row[n] + 1])
        result[n] = _along(slope, feature[inside], by_row[inside])
    for n in span(near, i):
        slope[partner[n]] = 0.0
    if power == 2 and beside > correlation.size // 4:
        correlation[:] = 0.0
    elif power == 2:
        for n in range(start[i], start[i + 1]):
            for m in span(row_start, row[n]):
                correlation[feature[m]] = 0.0


@njit(cache=True)
def _along_partners(i, weight, power, place, own, sums, columns, pairs, result):
    """The same by way of the entries of its partners: less work where those are few.

    `place` says of each row which entry of feature i lies in it, from 1; 0 is for rows where it does not fire.
    """
    (start, row, by_feature), (near, partner) = columns, pairs
    for n in range(start[i], start[i + 1]):
        k = n - start[i] + 1
        place[row[n]], own[k], sums[k] = k, by_feature[n], 0.0
    for n in span(near, i):
        j = partner[n]
        slope = weight[n]
        if power == 2:
            correlation = 0.0
            for m in range(start[j], start[j + 1]):
                correlation += own[place[row[m]]] * by_feature[m]
            slope *= 2 * correlation
        if slope != 0:
            for m in range(start[j], start[j + 1]):
                sums[place[row[m]]] += slope * by_feature[m]
    for n in range(start[i], start[i + 1]):
        result[n] = sums[n - start[i] + 1]
        place[row[n]] = 0


@njit(parallel=True, cache=True)
def uncentred(row_start, feature, by_row, start, row, by_feature, near, partner, weight, inverse, pull, power, parts):
    """Twice `power` times the sum over pairs of w_ij C_ij^power, and its gradient as `gradient` has it, in one go.

    C is not centred: so it is 0 of two features that never fire together, and pairs that don't are only passed over.
    Codes are scaled by `inverse` already, and come in the order of rows (row_start, feature, by_row) and in that of
    features (start, row, by_feature), in which the gradient goes. weight[n] is that of feature i and partner[n],
    near[i] <= n < near[i + 1].
    """
    d_sae = start.size - 1
    rows, columns, pairs = (row_start, feature, by_row), (start, row, by_feature), (near, partner)
    result = np.zeros(by_row.size, np.float64)
    totals = np.zeros(parts, np.float64)
    for part in prange(parts):
        slope, correlation = np.zeros(d_sae, np.float64), np.zeros(d_sae, np.float64)
        place = np.zeros(row_start.size - 1, np.int32)
        own, sums = np.zeros(row_start.size, np.float64), np.zeros(row_start.size, np.float64)
        for i in range(part, d_sae, parts):
            if near[i] == near[i + 1] or start[i] == start[i + 1]:
                continue
            beside = 0
            for n in range(start[i], start[i + 1]):
                beside += row_start[row[n] + 1] - row_start[row[n]]
            of_partners = 0
            for n in span(near, i):
                of_partners += start[partner[n] + 1] - start[partner[n]]
                if of_partners >= beside:
                    break
            if of_partners < beside:
                _along_partners(i, weight, power, place, own, sums, columns, pairs, result)
            else:
                _along_rows(i, weight, power, beside, correlation, slope, rows, columns, pairs, result)
            pushed = 0.0  # in the end the sum over j of S_ij C_ij
            for n in range(start[i], start[i + 1]):
                pushed += result[n] * by_feature[n]
            totals[part] += pushed
            for n in range(start[i], start[i + 1]):
                result[n] = (result[n] - pull * pushed * by_feature[n]) * inverse[i]
    return totals.sum(), result
