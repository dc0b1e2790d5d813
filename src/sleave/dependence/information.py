"""Mutual information of every pair of features, in nats, from co-activations alone.

With phi(x) = x ln x, bins of sizes p_u and q_v, active counts a and b, and J_uv the rows on which i lies in bin u and j
in bin v (c of them in all, row sums r_u and column sums s_v),

    N I = sum phi(J_uv) + sum phi(p_u - r_u) + sum phi(q_v - s_v) + phi(N - a - b + c)
          - sum phi(p_u) - phi(N - a) - sum phi(q_v) - phi(N - b) + N ln N,

so a pair that never fires together has an I that its two active counts decide.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.codes.compiled import compiled, on_cpu
from sleave.dependence import kernels
from sleave.dependence.atoms import Atoms, num_bins, phi
from sleave.dependence.coactivation import WALK, entries_together, listed, slots, summed
from sleave.dependence.pairs import argsort_unique, num_pairs
from sleave.dependence.scores import PairScores, check_memory

Baseline = Literal["permutation", "shift", "none"]
TILE = 128  # features of a tile of the reference, which holds its one-hot planes densely
# A pass over co-activations takes about this many times as long per co-activation as intersecting bit planes takes per
# word and two bins (measured: 3 ns against 0.09).
COACTIVATION = 30.0
BYTES = 96  # per listed pair, at the peak


def information_scores(atoms: Atoms, baseline: Baseline) -> PairScores:
    """Mutual information of all pairs of symbols, less what chance alone would give.

    Args:
        atoms: the symbols.
        baseline: `permutation` subtracts the exact mean of I over all permutations of the rows; `shift` subtracts
            the I of the first feature shifted by half the rows (one draw of the same, with its noise); `none`
            subtracts nothing.

    Raises:
        SleaveError: fewer than two rows, or not enough memory.
    """
    codes = atoms.codes
    if codes.rows < 2:
        raise SleaveError(
            f"`acts` has {codes.rows} row; mutual information needs at least 2, and means little below 1000."
        )
    most = min(codes.coactivations, num_pairs(codes.d_sae)) * (3 if baseline == "shift" else 1)
    each = BYTES if on_cpu(codes) else BYTES + 100.0 + 32.0 * atoms.width
    check_memory(
        each * most + 4.0 * codes.d_sae * atoms.width**2 * torch.get_num_threads(),
        f"Up to {most:,} pairs of {codes.d_sae:,} features that fire together",
        "Give fewer rows, or codes of which fewer fire.",
        codes.device,
    )
    plain = _plug_in(atoms, 0)
    if baseline == "none":
        return plain
    if baseline == "shift":
        return _less(plain, _plug_in(atoms, codes.rows // 2))
    return plain.less(_expected(atoms))


def _plug_in(atoms: Atoms, shift: int) -> PairScores:
    """I of the counted frequencies, the first feature of each pair shifted down by so many rows."""
    codes = atoms.codes
    table = phi(codes.rows, codes.device)
    own = table[atoms.sizes].sum(1) + table[codes.rows - codes.fired]
    if not on_cpu(codes):
        walked = shift == 0 and _sparse_is_faster(atoms)
        i, j, together, total = reference_walk(atoms, own) if walked else reference_counts(atoms, shift, own)
    elif _sparse_is_faster(atoms):
        i, j, together, total = _by_coactivations(atoms, shift, own)
    else:
        i, j, together, total = _by_planes(atoms, shift, own)
    score = total.div_(codes.rows).add_(math.log(codes.rows))
    counts, group = torch.unique(codes.fired, return_inverse=True)
    neither = (codes.rows - counts[:, None] - counts).clamp_min(0)
    alone = table[codes.rows - counts]
    apart = (table[neither] - alone[:, None] - alone) / codes.rows + math.log(codes.rows)
    return PairScores(codes.d_sae, i, j, score, together, group, apart)


def _sparse_is_faster(atoms: Atoms) -> bool:
    if not on_cpu(atoms.codes):
        return atoms.codes.coactivations * WALK["cuda"] < atoms.codes.rows * float(atoms.num_bins.sum()) ** 2
    words = (atoms.codes.rows + 63) // 64
    return atoms.codes.coactivations * COACTIVATION < words * float(atoms.num_bins.sum()) ** 2 / 2


def _by_coactivations(atoms: Atoms, shift: int, own: Tensor) -> tuple[Tensor, ...]:
    codes = atoms.codes
    start, order = codes.by_feature
    offset = slots(codes, shift)
    entries = (codes.start, codes.feature, atoms.bin, start, codes.row[order], atoms.bin[order])
    partner, together, total, found = compiled(
        kernels.information_from_coactivations,
        *entries,
        *(atoms.sizes, phi(codes.rows), own),
        *(shift, offset, torch.get_num_threads()),
    )
    return listed(offset, found, partner, together, total)


def _by_planes(atoms: Atoms, shift: int, own: Tensor) -> tuple[Tensor, ...]:
    codes = atoms.codes
    start, order = codes.by_feature
    row, bins = codes.row[order], atoms.bin[order]

    def planes(row: Tensor) -> Tensor:
        packed: Tensor = compiled(kernels.bit_planes, start, row, bins, codes.rows, atoms.width)
        return packed

    second = planes(row)
    first = planes((row + shift) % codes.rows) if shift else second
    symbols = (atoms.num_bins, atoms.sizes, codes.fired, phi(codes.rows), own)
    together, total = compiled(kernels.information_from_planes, first, second, *symbols, codes.rows)
    i, j = torch.triu_indices(codes.d_sae, codes.d_sae, offset=1)
    fire = together > 0
    return (i, j, together, total) if bool(fire.all()) else (i[fire], j[fire], together[fire], total[fire])


def reference_counts(atoms: Atoms, shift: int, own: Tensor) -> tuple[Tensor, ...]:
    """(i, j, together, N (I - ln N)) of the pairs that fire together, by products: the reference, for any device."""
    codes, width = atoms.codes, atoms.width
    table = phi(codes.rows, codes.device)
    parts = []
    for top in range(0, codes.d_sae, TILE):
        a = _one_hot(atoms, top, shift)
        for left in range(top, codes.d_sae, TILE):
            b = _one_hot(atoms, left, 0)
            counts = (a.t() @ b).round().long().view(-1, width, b.shape[1] // width, width)
            i = torch.arange(top, top + counts.shape[0], device=a.device)
            j = torch.arange(left, left + counts.shape[2], device=a.device)
            together = counts.sum(dim=(1, 3))
            total = table[counts].sum(dim=(1, 3))
            total += table[atoms.sizes[i][:, :, None] - counts.sum(3)].sum(1)
            total += table[atoms.sizes[j] - counts.sum(1)].sum(2)
            total += table[codes.rows - codes.fired[i][:, None] - codes.fired[j] + together] - own[i][:, None] - own[j]
            row, column = ((together > 0) & (i[:, None] < j)).nonzero(as_tuple=True)
            parts.append((i[row], j[column], together[row, column], total[row, column]))
    i, j, together, total = (torch.cat(p) for p in zip(*parts, strict=True))
    order = argsort_unique((i << 32) + j)
    return i[order], j[order], together[order], total[order]


def reference_walk(atoms: Atoms, own: Tensor) -> tuple[Tensor, ...]:
    """The same from what fires together alone, in plain torch, for any device."""
    codes, width, bins = atoms.codes, atoms.width, atoms.bin.long()
    cells, counts = [], []
    for a, b in entries_together(codes):
        pair = codes.feature[a] * codes.d_sae + codes.feature[b]
        cell, count = ((pair * width + bins[a]) * width + bins[b]).unique(return_counts=True)
        cells.append(cell)
        counts.append(count)
    cell, (count,) = summed(cells, counts)
    pair, place = torch.unique_consecutive(cell // width**2, return_inverse=True)
    i, j = pair // codes.d_sae, pair % codes.d_sae
    table = phi(codes.rows, codes.device)
    together = torch.zeros_like(pair).index_add_(0, place, count)
    total = table.new_zeros(len(pair)).index_add_(0, place, table[count])
    for feature, bin in ((i, cell // width % width), (j, cell % width)):
        at = place * width + bin
        shared = torch.zeros(len(pair) * width, dtype=count.dtype, device=codes.device).index_add_(0, at, count)
        total += table[atoms.sizes[feature] - shared.view(-1, width)].sum(1)
    total += table[codes.rows - codes.fired[i] - codes.fired[j] + together] - own[i] - own[j]
    return i, j, together, total


def _one_hot(atoms: Atoms, first: int, shift: int) -> Float[Tensor, "rows planes"]:
    """Whether each row lies in each bin of a tile's features: 0 or 1, exact in float32 products up to 2^24 rows."""
    codes = atoms.codes
    last = min(first + TILE, codes.d_sae)
    inside = (codes.feature >= first) & (codes.feature < last)
    plane = (codes.feature[inside] - first) * atoms.width + atoms.bin[inside]
    hot = torch.zeros(codes.rows, (last - first) * atoms.width, device=codes.device)
    hot[(codes.row[inside] + shift) % codes.rows, plane] = 1
    return hot


def _expected(atoms: Atoms) -> Float[Tensor, "groups groups"]:
    """The mean of I over all permutations of the rows, by groups of features that fire equally often.

    Reference: Vinh, Epps & Bailey 2010, "Information theoretic measures for clusterings comparison", Eq. (24a).
    """
    codes = atoms.codes
    counts = codes.fired.cpu().unique()
    bins = num_bins(counts, atoms.width)
    table = phi(codes.rows)
    small, large = counts // bins, -(-counts // bins)
    own = (bins - counts % bins) * table[small] + counts % bins * table[large] + table[codes.rows - counts]
    sizes = torch.cat([small, large]).unique()
    place = torch.zeros(codes.rows + 1, dtype=torch.int64)
    place[sizes] = torch.arange(len(sizes))
    total: Tensor = compiled(kernels.expected_information, codes.rows, counts, bins, sizes, place, table, own)
    return (total / codes.rows + math.log(codes.rows)).to(codes.device)


def _less(scores: PairScores, baseline: PairScores) -> PairScores:
    """One score less the other, for every pair that fires together in either; elsewhere the two are equal."""
    width = scores.d_sae
    keys = [s.i * width + s.j for s in (scores, baseline)]
    key = torch.cat(keys).unique()
    i, j = key // width, key % width
    values, together = [], torch.zeros_like(key)
    for s, own in zip((scores, baseline), keys, strict=True):
        value = s.apart[s.group[i], s.group[j]]
        value[torch.searchsorted(key, own)] = s.score
        values.append(value)
    together[torch.searchsorted(key, keys[0])] = scores.together
    return replace(
        scores, i=i, j=j, score=values[0] - values[1], together=together, apart=torch.zeros_like(scores.apart)
    )
