"""Fast paths on CPUs, in numba; what each computes is said, and tested against, where it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from sleave.codes.kernels import span

Ints = NDArray[np.int64]
Floats = NDArray[Any]
TILE = 64  # features; two tiles of bit planes stay in a core's cache
SEVERAL = -1  # more than one row


@intrinsic
def _popcount(typing_context, x):
    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@njit(cache=True, inline="always")
def _mixed(x):
    x = np.int64((x ^ (x >> 16)) * 0x7FEB352D & 0xFFFFFFFF)
    x = np.int64((x ^ (x >> 15)) * 0x846CA68B & 0xFFFFFFFF)
    return x ^ (x >> 16)


@njit(cache=True)
def _select(x: Ints, low: int, rank: int) -> int:
    """x[rank] as if x[low:] were sorted, and smaller numbers before it: Hoare's quickselect."""
    high = x.size - 1
    while low < high:
        a, b, c = x[low], x[(low + high) // 2], x[high]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = low, high
        while i <= j:
            while x[i] < pivot:
                i += 1
            while x[j] > pivot:
                j -= 1
            if i <= j:
                x[i], x[j] = x[j], x[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return x[rank]


@njit(parallel=True, cache=True)
def assign_bins(bits: NDArray[np.int32], order: Ints, row: Ints, start: Ints, num_bins: Ints) -> NDArray[np.uint8]:
    """Cut each feature's entries into num_bins bins of equal count by rank; see `atoms._keys` for what ranks them."""
    bins = np.zeros(bits.size, np.uint8)
    for i in prange(start.size - 1):
        fired = start[i + 1] - start[i]
        if num_bins[i] > 1:
            key = np.empty(fired, np.int64)
            mixed = _mixed(np.int64(i))
            for n in range(fired):
                entry = order[start[i] + n]
                value = np.int64(bits[entry])
                if value < 0:
                    value ^= 0x7FFFFFFF
                key[n] = value << 32 | _mixed(row[entry] ^ mixed)
            few = num_bins[i] <= 6  # then finding the few ranks is less work than sorting
            ordered = key.copy() if few else np.sort(key)
            before = 0
            for b in range(1, num_bins[i]):
                rank = -(-b * fired // num_bins[i])
                least = _select(ordered, before, rank) if few else ordered[rank]
                before = rank
                for n in range(fired):
                    bins[order[start[i] + n]] += key[n] >= least
    return bins


@njit(cache=True, inline="always")
def _information(table, rows, columns, p, q, phi):
    """sum of phi over a pair's table, its zero row and column included, but for the corner; and the table's sum."""
    total = 0.0
    together = 0
    for v in range(columns):
        left = q[v]
        for u in range(rows):
            left -= table[u, v]
        total += phi[left]
    for u in range(rows):
        mass = 0
        for v in range(columns):
            mass += table[u, v]
            total += phi[table[u, v]]
        total += phi[p[u] - mass]
        together += mass
    return total, together


@njit(cache=True, inline="always")
def _put_in_order(partner, first, last, i, marks):
    """Partners of feature i in ascending order; they are the later features that are marked."""
    if 16 * (last - first) > marks.size - i:  # walking the marks is less work than sorting
        for j in range(i + 1, marks.size):
            if marks[j]:
                partner[first] = j
                first += 1
    else:
        partner[first:last].sort()


@njit(parallel=True, cache=True)
def information_from_coactivations(
    row_start, feature, feature_bin, column_start, column_row, column_bin, sizes, phi, own, shift, offset, parts
):
    """Pairs that fire together, the number of rows on which they do, and N * (I - ln N); by counting co-activations.

    Feature i's pairs begin at offset[i]; returns also how many each has. Most pairs of a wide dictionary fire together
    on one row only. They get no table: with that row in bins of p and q rows, N * (I - ln N) is phi(p - 1) - phi(p) +
    phi(q - 1) - phi(q) + phi(rows - fired_i - fired_j + 1) - phi(rows - fired_i) - phi(rows - fired_j).
    """
    d_sae, width = sizes.shape
    rows = row_start.size - 1
    partner = np.empty(offset[d_sae], np.int64)
    together = np.empty(offset[d_sae], np.int64)
    information = np.empty(offset[d_sae], np.float64)
    found = np.zeros(d_sae, np.int64)
    fired = column_start[1:] - column_start[:-1]
    for part in prange(parts):
        table = np.zeros((d_sae, width * width), np.int32)
        seen = np.zeros(d_sae, np.int32)  # 1 + the cell of the only row so far; with more, SEVERAL
        for i in range(part, d_sae, parts):
            at = last = np.uint64(offset[i])
            for n in span(column_start, i):
                row = (column_row[n] + shift) % rows
                cells = np.int32(column_bin[n]) * np.int32(width)
                first = row_start[row] + np.searchsorted(feature[row_start[row] : row_start[row + 1]], i + 1)
                for m in range(np.uint64(first), np.uint64(row_start[row + 1])):
                    j = np.uint64(feature[m])
                    cell = cells + np.int32(feature_bin[m])
                    before = seen[j]
                    if before == 0:
                        seen[j] = cell + 1
                        partner[last] = j
                        last += np.uint64(1)
                    else:
                        if before != SEVERAL:
                            table[j, np.uint64(before - 1)] = 1
                            seen[j] = SEVERAL
                        table[j, np.uint64(cell)] += 1
            _put_in_order(partner, offset[i], np.int64(last), i, seen)
            alone_i = phi[rows - fired[i]]
            for n in range(at, last):
                j = np.uint64(partner[n])
                if seen[j] == SEVERAL:
                    counts = table[j].reshape(width, width)
                    sums, count = _information(counts, width, width, sizes[i], sizes[j], phi)
                    neither = phi[rows - fired[i] - fired[j] + count]
                    information[n] = sums + neither - own[i] - own[j]
                    together[n] = count
                    table[j] = 0
                else:
                    u, v = divmod(seen[j] - 1, width)
                    p, q = sizes[i, u], sizes[j, v]
                    sums = phi[p - 1] - phi[p] + phi[q - 1] - phi[q]
                    information[n] = sums + phi[rows - fired[i] - fired[j] + 1] - alone_i - phi[rows - fired[j]]
                    together[n] = 1
                seen[j] = 0
            found[i] = last - at
    return partner, together, information, found


@njit(parallel=True, cache=True)
def bit_planes(column_start, column_row, column_bin, rows, width):
    """One bit per row for each feature and bin: (d_sae, width, words)."""
    d_sae = column_start.size - 1
    planes = np.zeros((d_sae, width, (rows + 63) // 64), np.uint64)
    for i in prange(d_sae):
        for n in range(column_start[i], column_start[i + 1]):
            row = column_row[n]
            planes[i, column_bin[n], row >> 6] |= np.uint64(1) << np.uint64(row & 63)
    return planes


@njit(cache=True, inline="always")
def _intersections(a, b, rows, columns, table):
    """table[u, v] = bits that plane u of one feature and plane v of another share; four at a time, which keeps
    them in registers."""
    words = a.shape[1]
    for u in range(rows):
        v = 0
        while v + 4 <= columns:
            s0 = s1 = s2 = s3 = np.uint64(0)
            for w in range(words):
                bits = a[u, w]
                s0 += _popcount(bits & b[v, w])
                s1 += _popcount(bits & b[v + 1, w])
                s2 += _popcount(bits & b[v + 2, w])
                s3 += _popcount(bits & b[v + 3, w])
            table[u, v], table[u, v + 1], table[u, v + 2], table[u, v + 3] = s0, s1, s2, s3
            v += 4
        while v < columns:
            s0 = np.uint64(0)
            for w in range(words):
                s0 += _popcount(a[u, w] & b[v, w])
            table[u, v] = s0
            v += 1


@njit(parallel=True, cache=True)
def information_from_planes(first, second, num_bins, sizes, fired, phi, own, rows):
    """For every pair in lexicographic order: rows on which both fire, and N * (I - ln N); by intersecting the bit
    planes of its first feature with those of its second."""
    d_sae = first.shape[0]
    pairs = d_sae * (d_sae - 1) // 2
    together = np.empty(pairs, np.int64)
    information = np.empty(pairs, np.float64)
    tiles = (d_sae + TILE - 1) // TILE
    for tile in prange(tiles * tiles):
        top, left = tile // tiles * TILE, tile % tiles * TILE
        if left < top:
            continue
        table = np.zeros((first.shape[1], first.shape[1]), np.int64)
        for i in range(top, min(d_sae, top + TILE)):
            for j in range(max(i + 1, left), min(d_sae, left + TILE)):
                _intersections(first[i], second[j], num_bins[i], num_bins[j], table)
                sums, count = _information(table, num_bins[i], num_bins[j], sizes[i], sizes[j], phi)
                pair = i * (2 * d_sae - i - 1) // 2 + j - i - 1
                together[pair] = count
                information[pair] = sums + phi[rows - fired[i] - fired[j] + count] - own[i] - own[j]
    return together, information


@njit(cache=True)
def _expected_phi(rows, a, b, base, sign, phi):
    """E phi(base + sign Y), Y hypergeometric: marked rows among b drawn out of `rows`, of which a are marked.

    Summed from the mode outwards, each weight from its neighbour's, until nothing more can count.
    """
    mode = (a + 1) * (b + 1) // (rows + 2)
    weight = mass = 1.0
    total = phi[base + sign * mode]
    for y in range(mode, min(a, b)):
        weight *= (a - y) * (b - y) / ((y + 1.0) * (rows - a - b + y + 1.0))
        if weight < 1e-18:
            break
        mass += weight
        total += weight * phi[base + sign * (y + 1)]
    weight = 1.0
    for y in range(mode, max(0, a + b - rows), -1):
        weight *= y * (rows - a - b + y) / ((a - y + 1.0) * (b - y + 1.0))
        if weight < 1e-18:
            break
        mass += weight
        total += weight * phi[base + sign * (y - 1)]
    return total / mass


@njit(parallel=True, cache=True)
def expected_information(rows, fired, num_bins, sizes, place, phi, own):
    """N * (E I - ln N) over all permutations of rows, for each two of the given active counts.

    sizes are all bin sizes that occur; place[size] says where in them a size is.
    """
    classes = fired.size
    inner = np.zeros((sizes.size, sizes.size))
    for n in prange(sizes.size):
        for m in range(sizes.size):
            inner[n, m] = _expected_phi(rows, sizes[n], sizes[m], 0, 1, phi)
    edge = np.zeros((sizes.size, classes))
    for n in prange(sizes.size):
        for k in range(classes):
            edge[n, k] = _expected_phi(rows, sizes[n], fired[k], sizes[n], -1, phi)
    expected = np.zeros((classes, classes))
    for k in prange(classes):
        small_k, large_k = place[fired[k] // num_bins[k]], place[-(-fired[k] // num_bins[k])]
        many_k = fired[k] % num_bins[k]
        few_k = num_bins[k] - many_k
        for m in range(k, classes):
            small_m, large_m = place[fired[m] // num_bins[m]], place[-(-fired[m] // num_bins[m])]
            many_m = fired[m] % num_bins[m]
            few_m = num_bins[m] - many_m
            total = few_k * (few_m * inner[small_k, small_m] + many_m * inner[small_k, large_m])
            total += many_k * (few_m * inner[large_k, small_m] + many_m * inner[large_k, large_m])
            total += few_k * edge[small_k, m] + many_k * edge[large_k, m]
            total += few_m * edge[small_m, k] + many_m * edge[large_m, k]
            if fired[k] + fired[m] <= rows:
                total += _expected_phi(rows, fired[k], fired[m], rows - fired[k] - fired[m], 1, phi)
            else:  # the same corner, counted from the rows where neither fires, of which there may be none
                total += _expected_phi(rows, rows - fired[k], rows - fired[m], 0, 1, phi)
            expected[k, m] = expected[m, k] = total - own[k] - own[m]
    return expected


@njit(parallel=True, cache=True)
def dots_from_coactivations(row_start, feature, value, column_start, order, row, offset, parts):
    """Pairs that fire together, on how many rows, and f_i.f_j; feature i's pairs begin at offset[i]."""
    d_sae = column_start.size - 1
    partner = np.empty(offset[d_sae], np.int64)
    together = np.empty(offset[d_sae], np.int64)
    dots = np.empty(offset[d_sae], np.float64)
    found = np.zeros(d_sae, np.int64)
    for part in prange(parts):
        count = np.zeros(d_sae, np.int64)
        dot = np.zeros(d_sae, np.float64)
        for i in range(part, d_sae, parts):
            at = offset[i]
            for n in range(column_start[i], column_start[i + 1]):
                entry = order[n]
                for m in range(entry + 1, row_start[row[entry] + 1]):
                    j = feature[m]
                    if count[j] == 0:
                        partner[at + found[i]] = j
                        found[i] += 1
                    count[j] += 1
                    dot[j] += np.float64(value[entry]) * value[m]
            _put_in_order(partner, at, at + found[i], i, count)
            for n in range(at, at + found[i]):
                j = partner[n]
                together[n], dots[n] = count[j], dot[j]
                count[j], dot[j] = 0, 0.0
    return partner, together, dots, found
