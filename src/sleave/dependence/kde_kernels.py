"""Sums of Gaussian kernels over codes that are mostly zero, in numba; `kde` says what they are for.

Everything is in units of the bandwidth, so that K(d) = exp(-d^2 / 2), and sums over rows are not divided by N. A
feature's *points* are its codes that are not zero; rows where it is silent need no loop, for they are all alike.

numba 0.68 loses what is written straight into a named tuple's array within `prange`: hence functions for one feature
or one pair, which `prange` only calls.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Sums may be taken in another order, for speed; NaN and infinity keep their meaning.
ANY_ORDER = {"reassoc", "contract"}


class Points(NamedTuple):
    """The points of all features, one feature after the other; rows ascend within a feature.

    Attributes:
        rows: N, silent rows included.
        start: (d_sae + 1,) where each feature's points begin.
        row, u: the row of each point, and its code divided by the feature's bandwidth.
        near: K(u), the kernel between a point and zero. This and what follows is filled in by `load`.
        density: N m(u), the sum of kernels from a point to all rows.
        at_zero: (d_sae,) N m(0).
        square: (d_sae,) where the kernels between a feature's own points begin in `kernels`.
        kernels: those of the features that are loaded.
    """

    rows: int
    start: Ints
    row: Ints
    u: Floats
    near: Floats
    density: Floats
    at_zero: Floats
    square: Ints
    kernels: Floats


class Meeting(NamedTuple):
    """Room for what is found out about one pair (i, j) after another.

    Attributes:
        place: (N,) which of i's points is in each row, or -1.
        both_i, both_j: the points of i and of j in the rows where both fire.
        joint_i, joint_j: N J at each point of i and of j: the sum of product kernels from there to all rows.
    """

    place: Ints
    both_i: Ints
    both_j: Ints
    joint_i: Floats
    joint_j: Floats


@njit(cache=True)
def _own(points: Points, i: int) -> Any:
    """Views of feature i's rows, u, near, density and kernels."""
    own = slice(points.start[i], points.start[i + 1])
    n = own.stop - own.start
    kernels = points.kernels[points.square[i] : points.square[i] + n * n].reshape(n, n)
    return points.row[own], points.u[own], points.near[own], points.density[own], kernels


@njit(cache=True)
def _load(points: Points, i: int) -> None:
    _, u, near, density, kernels = _own(points, i)
    for a in range(u.size):
        near[a] = np.exp(-0.5 * u[a] ** 2)
        kernels[a, a] = 1.0
        for b in range(a):
            kernels[a, b] = kernels[b, a] = np.exp(-0.5 * (u[a] - u[b]) ** 2)
    silent = points.rows - u.size
    for a in range(u.size):
        density[a] = silent * near[a] + kernels[a].sum()
    points.at_zero[i] = silent + near.sum()


@njit(parallel=True, cache=True)
def load(points: Points, features: Ints) -> None:
    """Compute the kernels between the own points of some features, and with them their marginal densities."""
    for n in prange(features.size):
        _load(points, features[n])


@njit(cache=True)
def _room(points: Points) -> Any:
    n = points.rows
    return Meeting(np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n, np.int64), np.empty(n), np.empty(n))


@njit(cache=True)
def _locate(points: Points, i: int, meeting: Meeting) -> None:
    for row in range(points.rows):
        meeting.place[row] = -1
    for a in range(points.start[i + 1] - points.start[i]):
        meeting.place[points.row[points.start[i] + a]] = a


@njit(cache=True, fastmath=ANY_ORDER)
def _joint(points: Points, i: int, j: int, meeting: Meeting) -> Any:
    """Fill in the meeting of i, whose points are located, with j; N J at zero, and in how many rows both fire.

    Each sum holds the point's own kernel, 1, so it is at least 1, and what cancels here leaves no more than rounding.
    """
    _, _, near_i, density_i, kernels_i = _own(points, i)
    row_j, _, near_j, density_j, kernels_j = _own(points, j)
    together = 0
    for b in range(row_j.size):
        a = meeting.place[row_j[b]]
        meeting.both_i[together], meeting.both_j[together] = a, b  # kept, and the next one put behind it, if both fire
        together += a >= 0
    both_i, both_j = meeting.both_i[:together], meeting.both_j[:together]
    # How K changes, from 1 at zero, to a point where both fire, and the sum of that over rows where only one does.
    change_i, change_j = np.empty(together), np.empty(together)
    alone_i, alone_j = points.at_zero[i] - points.rows, points.at_zero[j] - points.rows
    at_zero = alone_i + alone_j + points.rows
    for k in range(together):
        change_i[k], change_j[k] = near_i[both_i[k]] - 1, near_j[both_j[k]] - 1
        alone_i -= change_i[k]
        alone_j -= change_j[k]
        at_zero += change_i[k] * change_j[k]
    _where_one_is_silent(near_i, density_i, kernels_i, both_i, change_j, alone_j, meeting.joint_i)
    _where_one_is_silent(near_j, density_j, kernels_j, both_j, change_i, alone_i, meeting.joint_j)
    for k in range(together):
        a, b = both_i[k], both_j[k]
        total = near_j[b] * density_i[a] + near_i[a] * density_j[b] - points.rows * near_i[a] * near_j[b]
        for m in range(together):
            total += (kernels_i[a, both_i[m]] - near_i[a]) * (kernels_j[b, both_j[m]] - near_j[b])
        meeting.joint_i[a] = meeting.joint_j[b] = total
    return at_zero, together


@njit(cache=True, fastmath=ANY_ORDER)
def _where_one_is_silent(
    near: Floats, density: Floats, kernels: Floats, both: Ints, change: Floats, alone: float, joint: Floats
) -> None:
    """N J(x, 0) at every x of a feature: its marginal, changed by K(y) - 1 times a kernel in rows where y is not 0."""
    for a in range(near.size):
        joint[a] = density[a] + alone * near[a]
    for k in range(both.size):
        kernel = kernels[both[k]]
        for a in range(near.size):
            joint[a] += change[k] * kernel[a]


@njit(cache=True)
def _log_of_product(factors: Floats) -> float:
    """sum of ln x, with one logarithm for as many factors as stay within range together."""
    total, product = 0.0, 1.0
    for x in factors:
        product *= x
        if not 1e-100 < product < 1e100:
            total += np.log(product)
            product = 1.0
    return total + np.log(product)


@njit(cache=True, error_model="numpy")
def _information(points: Points, i: int, j: int, meeting: Meeting) -> float:
    _, _, _, density_i, _ = _own(points, i)
    _, _, _, density_j, _ = _own(points, j)
    if density_i.size == 0 or density_j.size == 0:
        return 0.0  # exactly, for a feature that never fires
    at_zero, together = _joint(points, i, j, meeting)
    ratio_i, ratio_j = meeting.joint_i[: density_i.size], meeting.joint_j[: density_j.size]
    both = np.empty(together)
    for k in range(together):
        a, b = meeting.both_i[k], meeting.both_j[k]
        both[k] = points.rows * ratio_i[a] / (density_i[a] * density_j[b])
    zero_i, zero_j = points.at_zero[i], points.at_zero[j]
    for a in range(ratio_i.size):
        ratio_i[a] *= points.rows / zero_j / density_i[a]
    for b in range(ratio_j.size):
        ratio_j[b] *= points.rows / zero_i / density_j[b]
    for k in range(together):
        ratio_i[meeting.both_i[k]] = both[k]
        ratio_j[meeting.both_j[k]] = 1.0
    total = _log_of_product(ratio_i) + _log_of_product(ratio_j)
    silent = points.rows - ratio_i.size - ratio_j.size + together
    if silent > 0:
        total += silent * np.log(points.rows * at_zero / (zero_i * zero_j))
    return total / points.rows


@njit(parallel=True, cache=True)
def information(points: Points, i: Ints, j: Ints, parts: int) -> Floats:
    """I in nats of pairs of loaded features; fastest where equal i follow each other."""
    result = np.empty(i.size)
    for part in prange(parts):
        meeting = _room(points)
        last = -1
        for pair in range(part * i.size // parts, (part + 1) * i.size // parts):
            if i[pair] != last:
                last = i[pair]
                _locate(points, last, meeting)
            result[pair] = _information(points, last, j[pair], meeting)
    return result


@njit(cache=True, fastmath=ANY_ORDER)
def _pull(
    points: Points, i: int, j: int, both_i: Ints, both_j: Ints, w: Floats, w_j: Floats, silent: int, w_zero: float
) -> Floats:
    """sum over rows l of (u_a - u_l) K(u_a - u_l) K(v_a - v_l) (w_a + w_l), w = 1 / (N J), for each point a of i.

    It is minus the derivative by u_a of sum_l ln J_l: w_a with a as what is evaluated, w_l with a as a kernel's centre.
    """
    _, u, near, _, kernels = _own(points, i)
    _, _, near_j, _, kernels_j = _own(points, j)
    alone = np.ones(near_j.size)  # 1 where j fires and i is silent, 0 where both fire
    alone[both_j] = 0
    alone_w = alone * w_j
    # Rows where i fires, as if v_l were 0 there; then as it is.
    pull = np.zeros(u.size)
    for p in range(u.size):
        for a in range(u.size):
            pull[a] += (u[a] - u[p]) * kernels[p, a] * (w[a] + w[p])
    at_both = near_j[both_j] * pull[both_i]
    for k in range(both_i.size):
        p = both_i[k]
        for a in range(u.size):
            pull[a] += (near_j[both_j[k]] - 1) * (u[a] - u[p]) * kernels[p, a] * (w[a] + w[p])
    # Rows where i is silent; first for the points a where j is, too.
    mass, weighted = silent + (near_j * alone).sum(), silent * w_zero + (near_j * alone_w).sum()
    for a in range(u.size):
        pull[a] += u[a] * near[a] * (w[a] * mass + weighted)
    for k in range(both_i.size):
        a, b = both_i[k], both_j[k]
        for m in range(both_i.size):
            p = both_i[m]
            at_both[k] += (kernels_j[b, both_j[m]] - near_j[b]) * (u[a] - u[p]) * kernels[a, p] * (w[a] + w[p])
        rest = silent * near_j[b] * (w[a] + w_zero)
        for q in range(near_j.size):
            rest += kernels_j[b, q] * (alone_w[q] + alone[q] * w[a])
        pull[a] = at_both[k] + u[a] * near[a] * rest
    return pull


@njit(cache=True, error_model="numpy")
def _joint_slope(points: Points, i: int, j: int, upstream: float, meeting: Meeting, slopes: Floats) -> None:
    start_i, start_j = points.start[i], points.start[j]
    w_i = meeting.joint_i[: points.start[i + 1] - start_i]
    w_j = meeting.joint_j[: points.start[j + 1] - start_j]
    at_zero, together = _joint(points, i, j, meeting)
    for a in range(w_i.size):
        w_i[a] = 1 / w_i[a]
    for b in range(w_j.size):
        w_j[b] = 1 / w_j[b]
    silent = points.rows - w_i.size - w_j.size + together
    w_zero = 1 / at_zero if silent > 0 else 0.0
    both_i, both_j = meeting.both_i[:together], meeting.both_j[:together]
    pull_i = _pull(points, i, j, both_i, both_j, w_i, w_j, silent, w_zero)
    pull_j = _pull(points, j, i, both_j, both_i, w_j, w_i, silent, w_zero)
    for a in range(w_i.size):
        slopes[start_i + a] -= upstream * pull_i[a]
    for b in range(w_j.size):
        slopes[start_j + b] -= upstream * pull_j[b]


@njit(parallel=True, cache=True)
def joint_slopes(points: Points, i: Ints, j: Ints, upstream: Floats, slopes: Floats) -> None:
    """Add the derivatives by each point's u of sum over pairs of upstream * sum over rows of ln J.

    Args:
        slopes: (parts, points); each part of the pairs has sums of its own, so that they do not depend on threads.
    """
    parts = len(slopes)
    for part in prange(parts):
        meeting = _room(points)
        for pair in range(part * i.size // parts, (part + 1) * i.size // parts):
            _locate(points, i[pair], meeting)
            _joint_slope(points, i[pair], j[pair], upstream[pair], meeting, slopes[part])


@njit(cache=True, fastmath=ANY_ORDER, error_model="numpy")
def _marginal_slope(points: Points, i: int, upstream: float, slopes: Floats) -> None:
    _, u, near, density, kernels = _own(points, i)
    silent = points.rows - u.size
    w = 1 / density
    w_zero = 1 / points.at_zero[i] if silent > 0 else 0.0
    for a in range(u.size):
        total = silent * u[a] * near[a] * (w[a] + w_zero)
        for p in range(u.size):
            total += (u[a] - u[p]) * kernels[a, p] * (w[a] + w[p])
        slopes[points.start[i] + a] += upstream * total


@njit(parallel=True, cache=True)
def marginal_slopes(points: Points, features: Ints, upstream: Floats, slopes: Floats) -> None:
    """Add the derivatives by each point's u of -upstream * sum over rows of ln m(u), for some loaded features."""
    for n in prange(features.size):
        _marginal_slope(points, features[n], upstream[features[n]], slopes)
