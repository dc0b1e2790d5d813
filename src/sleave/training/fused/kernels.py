"""The passes of a fused step that are not matrix products, in numba; `dense`, `sparse`, `adam` say what they make up.

Numbers are float32, or bfloat16 as bits; sums are in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from sleave.codes.number_kernels import number, stored

Numbers = NDArray[Any]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SUMS = {"reassoc", "contract", "nsz"}  # lets sums be vectorised; NaN and infinity stay what they are
STRIP = 32  # rows of which one sum is kept


@njit(parallel=True, cache=True, fastmath=SUMS)
def activate(codes: Numbers, bias: Floats) -> tuple[Floats, Ints]:
    """ReLU(codes + bias) in place, codes (d_sae, batch); the sum of each feature's, and on how many rows it fires."""
    total = np.zeros(codes.shape[0], np.float32)
    fired = np.zeros(codes.shape[0], np.int64)
    for i in prange(codes.shape[0]):
        own, along, count = codes[i], np.float32(0), np.int32(0)
        for n in range(own.size):
            value = number(own[n]) + bias[i]
            own[n] = stored(np.float32(0) if value <= 0 else value, own[n])
            along += number(own[n])
            count += np.int32(own[n] != 0)
        total[i], fired[i] = along, count
    return total, fired


@njit(parallel=True, cache=True, fastmath=SUMS)
def through_relu(slope: Numbers, codes: Numbers, scale: float, each: Floats, more: Numbers) -> Floats:
    """slope * scale + each + more where codes fire, else 0, in place; all (d_sae, batch) but each, a number a feature.

    `more` may have no rows. Returns the sum of each feature's.
    """
    total = np.zeros(codes.shape[0], np.float32)
    factor = np.float32(scale)
    for i in prange(codes.shape[0]):
        own, fires, along = slope[i], codes[i], np.float32(0)
        if more.shape[0] == 0:
            for n in range(own.size):
                value = number(own[n]) * factor + each[i] if fires[n] != 0 else np.float32(0)
                own[n] = stored(value, own[n])
                along += value
        else:
            given = more[i]
            for n in range(own.size):
                value = number(own[n]) * factor + each[i] + number(given[n]) if fires[n] != 0 else np.float32(0)
                own[n] = stored(value, own[n])
                along += value
        total[i] = along
    return total


@njit(parallel=True, cache=True, fastmath=SUMS)
def subtract(x_hat: Numbers, bias: Floats, x: Floats) -> tuple[Floats, Floats]:
    """x_hat + bias - x in place, (batch, d_in); each row's squared sum, and the sums of strips of rows."""
    rows, d_in = x_hat.shape
    squared = np.zeros(rows, np.float32)
    strips = (rows + STRIP - 1) // STRIP
    along = np.zeros((strips, d_in), np.float32)
    for strip in prange(strips):
        for row in range(strip * STRIP, min((strip + 1) * STRIP, rows)):
            own, given, total = x_hat[row], x[row], np.float32(0)
            for d in range(d_in):
                value = number(own[d]) + bias[d] - given[d]
                total += value * value
                along[strip, d] += value
                own[d] = stored(value, own[d])
            squared[row] = total
    return squared, along


@njit(parallel=True, cache=True, fastmath=SUMS)
def decode(
    start: Ints, feature: Ints, value: Floats, W_dec: Numbers, bias: Floats, x: Floats, residual: Numbers
) -> tuple[Floats, Floats]:
    """Fills residual (batch, d_in) with what `subtract` makes of the product of codes, by row, and W_dec."""
    rows, d_in = x.shape
    squared = np.zeros(rows, np.float32)
    strips = (rows + STRIP - 1) // STRIP
    along = np.zeros((strips, d_in), np.float32)
    for strip in prange(strips):
        made = np.empty(d_in, np.float32)
        for row in range(strip * STRIP, min((strip + 1) * STRIP, rows)):
            for d in range(d_in):
                made[d] = bias[d] - x[row, d]
            at, last = start[row], start[row + 1]
            while at + 4 <= last:  # four at a time: `made` is read and written once for them
                a, b, c, e = W_dec[feature[at]], W_dec[feature[at + 1]], W_dec[feature[at + 2]], W_dec[feature[at + 3]]
                u, v, w, y = value[at], value[at + 1], value[at + 2], value[at + 3]
                for d in range(d_in):
                    made[d] += u * number(a[d]) + v * number(b[d]) + w * number(c[d]) + y * number(e[d])
                at += 4
            while at < last:
                a, u = W_dec[feature[at]], value[at]
                for d in range(d_in):
                    made[d] += u * number(a[d])
                at += 1
            total = np.float32(0)
            for d in range(d_in):
                total += made[d] * made[d]
                along[strip, d] += made[d]
                residual[row, d] = stored(made[d], residual[row, d])
            squared[row] = total
    return squared, along


@njit(cache=True, fastmath=SUMS)
def _dot(a, b):
    total = np.float32(0)
    for d in range(a.size):
        total += number(a[d]) * number(b[d])
    return total


@njit(parallel=True, cache=True, fastmath=SUMS)
def gradients(
    start: Ints,
    order: Ints,
    row: Ints,
    value: Floats,
    scale: float,
    each: Floats,
    more: Floats,
    W_dec: Numbers,
    residual: Numbers,
    x: Numbers,
    by_W_enc: Floats,
    by_W_dec: Floats,
    parts: int,
) -> Floats:
    """Fills the gradients of the encoder (d_sae, d_in) and the decoder, feature by feature; returns that of b_enc.

    Entry e's code has the gradient scale * residual[row] . W_dec[i] + each[i] + more[e]; `more` may be empty. A row of
    the residual is read for that, and used for the decoder's gradient while it is at hand.
    """
    d_sae, d_in = by_W_dec.shape
    by_b_enc = np.zeros(d_sae, np.float32)
    factor = np.float32(scale)
    for part in prange(parts):
        for i in range(part, d_sae, parts):
            own, encoder, decoder, along = W_dec[i], by_W_enc[i], by_W_dec[i], np.float32(0)
            encoder[:] = 0
            decoder[:] = 0
            for n in range(start[i], start[i + 1], 2):
                first, second = order[n], order[min(n + 1, start[i + 1] - 1)]
                r, s = residual[row[first]], residual[row[second]]
                p, q = x[row[first]], x[row[second]]
                g = factor * _dot(r, own) + each[i]
                h = factor * _dot(s, own) + each[i]
                if more.size > 0:
                    g += more[first]
                    h += more[second]
                u, v = factor * value[first], factor * value[second]
                if n + 1 == start[i + 1]:
                    h = v = np.float32(0)
                along += g + h
                for d in range(d_in):
                    decoder[d] += u * number(r[d]) + v * number(s[d])
                    encoder[d] += g * number(p[d]) + h * number(q[d])
            by_b_enc[i] = along
    return by_b_enc


@njit(parallel=True, cache=True)
def compress(codes: Numbers, fired: Ints) -> tuple[Ints, Ints, Floats, Ints, Ints]:
    """Row starts, features and values of what fires in (d_sae, batch), and `Codes.by_feature`."""
    d_sae, rows = codes.shape
    first = np.zeros(d_sae + 1, np.int64)
    first[1:] = np.cumsum(fired)
    where, what = np.empty(first[-1], np.int64), np.empty(first[-1], np.float32)
    for i in prange(d_sae):
        at = first[i]
        for n in range(rows):
            if codes[i, n] != 0:
                where[at] = n
                what[at] = number(codes[i, n])
                at += 1
    start = np.zeros(rows + 1, np.int64)
    for n in where:
        start[n + 1] += 1
    start = np.cumsum(start)
    at_row = start[:-1].copy()
    feature, value, order = (
        np.empty(first[-1], np.int64),
        np.empty(first[-1], np.float32),
        np.empty(first[-1], np.int64),
    )
    for i in range(d_sae):
        for n in range(first[i], first[i + 1]):
            place = at_row[where[n]]
            at_row[where[n]] += 1
            feature[place], value[place], order[n] = i, what[n], place
    return start, feature, value, first, order


@njit(parallel=True, cache=True, fastmath=SUMS)
def column_variance(x: Floats) -> Floats:
    """The variance of each column of (batch, d_in), over rows; two passes."""
    rows, d_in = x.shape
    strips = (rows + STRIP - 1) // STRIP
    sums = np.zeros((strips, d_in), np.float32)
    for strip in prange(strips):
        for row in range(strip * STRIP, min((strip + 1) * STRIP, rows)):
            for d in range(d_in):
                sums[strip, d] += x[row, d]
    mean = (sums.sum(axis=0) / np.float32(rows)).astype(np.float32)
    sums[:] = 0
    for strip in prange(strips):
        for row in range(strip * STRIP, min((strip + 1) * STRIP, rows)):
            for d in range(d_in):
                sums[strip, d] += (x[row, d] - mean[d]) ** 2
    return (sums.sum(axis=0) / np.float32(rows)).astype(np.float32)


@njit(parallel=True, cache=True, fastmath=SUMS)
def row_squares(gradient: Floats, weight: Floats, projected: bool) -> tuple[Floats, Floats]:
    """Of each row: the square of the gradient, less what points along the weight if `projected`, and that."""
    rows, width = gradient.shape
    squares, along = np.zeros(rows, np.float32), np.zeros(rows if projected else 0, np.float32)
    for row in prange(rows):
        own, other = gradient[row], weight[row]
        taken, square = np.float32(0), np.float32(0)
        if projected:
            for d in range(width):
                taken += own[d] * other[d]
            along[row] = taken
            for d in range(width):
                square += (own[d] - taken * other[d]) ** 2
        else:
            for d in range(width):
                square += own[d] * own[d]
        squares[row] = square
    return squares, along


@njit(parallel=True, cache=True, fastmath=SUMS)
def adam(
    weight: Floats,
    gradient: Floats,
    first: Floats,
    second: Floats,
    factor: float,
    along: Floats,
    lr: float,
    beta_1: float,
    beta_2: float,
    eps: float,
    corrections: tuple[float, float],
    decay: float,
    unit: bool,
) -> None:
    """Adam on the rows of a matrix, in place, with factor * (gradient - along * weight); then to norm one, if `unit`.

    `along` may be empty. Corrections are 1 - beta_1^t and the root of 1 - beta_2^t; decay is the share of the weight
    that is taken off.
    """
    rows, width = weight.shape
    times, keep_1, keep_2 = np.float32(factor), np.float32(beta_1), np.float32(beta_2)
    new_1, new_2 = np.float32(1 - beta_1), np.float32(1 - beta_2)
    size, root, least = np.float32(lr / corrections[0]), np.float32(1 / corrections[1]), np.float32(eps)
    left = np.float32(1 - decay)
    for row in prange(rows):
        w, g, m, v = weight[row], gradient[row], first[row], second[row]
        taken, square = along[row] if along.size else np.float32(0), np.float32(0)
        for d in range(width):
            slope = times * (g[d] - taken * w[d])
            m[d] = keep_1 * m[d] + new_1 * slope
            v[d] = keep_2 * v[d] + new_2 * slope * slope
            moved = left * w[d] - size * m[d] / (np.sqrt(v[d]) * root + least)
            square += moved * moved
            w[d] = moved
        if unit:
            scale = np.float32(1) / max(np.sqrt(square), np.float32(1e-12))
            for d in range(width):
                w[d] *= scale
