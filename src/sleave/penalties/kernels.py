"""Fast paths on CPUs, in numba; what each computes is said, and tested against, in `pairwise`."""

from __future__ import annotations

import numpy as np
from numba import njit, prange


@njit(parallel=True, cache=True)
def penalty_from_coactivations(
    row_start, feature, value, row, start, order, near, partner, pair, weight, mean, inverse, pull, parts
):
    """sum of w_ij C_ij^2 over pairs, and its gradient at every entry that fires.

    Feature i's partners are partner[near[i]:near[i + 1]], and the weights of those pairs weight[pair[...]]. Codes are
    counted less `mean` and times `inverse`; `pull` is 0 where the norms are not differentiated.
    """
    d_sae = start.size - 1
    rows = row_start.size - 1
    gradient = np.zeros(value.size, np.float64)
    total = np.zeros(d_sae, np.float64)
    for part in prange(parts):
        dot = np.zeros(d_sae, np.float64)
        slope = np.zeros(d_sae, np.float64)
        for i in range(part, d_sae, parts):
            if near[i] == near[i + 1] or start[i] == start[i + 1]:
                continue
            for n in range(start[i], start[i + 1]):
                entry = order[n]
                x = float(value[entry])
                for m in range(row_start[row[entry]], row_start[row[entry] + 1]):
                    dot[feature[m]] += x * value[m]
            own = shift = 0.0
            for n in range(near[i], near[i + 1]):
                j, w = partner[n], weight[pair[n]]
                c = (dot[j] - rows * mean[i] * mean[j]) * inverse[i] * inverse[j]
                own += w * c * c
                slope[j] = 2 * w * c * inverse[j]
                shift += slope[j] * mean[j]
            total[i] = own
            for n in range(start[i], start[i + 1]):
                entry = order[n]
                along = -shift - 2 * pull * own * (value[entry] - mean[i]) * inverse[i]
                for m in range(row_start[row[entry]], row_start[row[entry] + 1]):
                    j = feature[m]
                    along += slope[j] * value[m]
                    dot[j] = 0.0
                gradient[entry] = along * inverse[i]
            for n in range(near[i], near[i + 1]):
                slope[partner[n]] = 0.0
    return total.sum() / 2, gradient
