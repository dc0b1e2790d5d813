"""The exact top fraction of all P pairs, with memory for the codes, a tile and the candidates, not for P numbers.

The matrix C is walked in tiles of its upper triangle. A tile may be computed in bfloat16, which is faster where the
machine has the instructions, because its error is bounded: whatever could still belong to the top is kept, and the
few that are kept are computed again in full precision. So the result does not depend on how the tiles were computed.

Where little fires, co-activations are walked in place of tiles, feature by feature: each pair is scored and forgotten,
but for those that can still belong to the top.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sleave.base.device import has_bfloat16
from sleave.base.files import dtype_name
from sleave.codes.codes import Codes
from sleave.codes.compiled import compiled, on_cpu
from sleave.dependence import selection_kernels
from sleave.dependence.coactivation import WALK, dots
from sleave.dependence.correlation import Measure, pair_correlation, unit_columns
from sleave.dependence.pairs import Pairs, check_coactivations, chunks, largest, num_pairs, top_count, unrank
from sleave.dependence.scores import check_memory, unlisted

TILE = 1024

# |tile - C| for unit columns. bfloat16 has 8 significant bits, so it rounds both factors and the result by 2^-8 of
# their size at most, and sum |z_i z_j| <= 1 (Cauchy-Schwarz): 3 * 2^-8, and a little for the second order and for the
# sum, which is in float32. If no code is negative, every term of the sum has one sign, and the same bound holds
# relative to C. The other two are empirical: many times what sums of 100,000 terms were seen to be off.
BF16_ERROR = 3.1 * 2.0**-8
FLOAT32_ERROR = 1e-5
FLOAT64_ERROR = 1e-13
NOISE = {torch.float32: 1e-6, torch.float64: 1e-14}  # what rounding may leave of C = 0; counts as 0


def top_pairs(
    acts: Tensor | Codes,
    top: float = 0.001,
    *,
    measure: Measure = "cosine",
    min_coactivations: int = 0,
    shrinkage: float = 0.0,
    fires: Tensor | Codes | None = None,
    screen: torch.dtype | None = None,
) -> Pairs:
    """The top fraction of all P = d_sae (d_sae - 1) / 2 pairs by |C_ij|, exactly.

    They come in the order of (i, j); `ranked()` has the strongest first. Ties go to the smaller i, then to the smaller
    j. Pairs with C = 0
    count, as in the paper, so the choice always has round(top P) pairs, unless `min_coactivations` leaves fewer; |C|
    up to 1e-6 counts as 0, which rounding may have left of it (1e-14 for float64 codes).

    Args:
        acts: (batch, d_sae) codes of a batch (or of several, stacked: that pools numerators and norms separately).
        top: share of all pairs to choose, in (0, 1].
        measure: `cosine` or `pearson`.
        min_coactivations: leave out pairs that fire together in fewer rows than this. Two features that fire once,
            in the same row, have C = 1.
        shrinkage: choose by |C| m / (m + shrinkage), m the rows on which both fire.
        fires: (batch, d_sae) codes that say who fires, if `acts` are something else, such as gradients.
        screen: dtype of the tiles (torch.bfloat16, float32 or float64); by default what is fast on this machine. It
            does not change the result.

    Raises:
        SleaveError: `top` outside (0, 1], fewer than two features, NaN or infinite codes.

    Reference: *Top-k feature decorrelation*, Eq. (5).
    """
    count = top_count(top, acts.d_sae if isinstance(acts, Codes) else acts.shape[-1])
    check_coactivations(min_coactivations, shrinkage)
    if isinstance(acts, Codes):
        if (fires is None or fires is acts) and coactivations_are_few(acts):
            return _from_coactivations(acts, count, measure, min_coactivations, shrinkage)
        check_memory(12.0 * acts.rows * acts.d_sae, "All the rows at once, densely,", "Give fewer rows.")
        acts = acts.to_dense()
    acts = acts.detach()
    active = None
    if min_coactivations > 0 or shrinkage > 0:
        active = ((fires.to_dense() if isinstance(fires, Codes) else acts if fires is None else fires) != 0).t()
    with torch.autocast(acts.device.type, enabled=False):
        return _top_pairs(acts, count, measure, active, min_coactivations, shrinkage, screen)


def most_to_walk(acts: Tensor | Codes) -> float:
    """Up to how many co-activations walking them is less work than the products of whole columns."""
    rows, d_sae = acts.shape
    return rows * float(d_sae) ** 2 / WALK[dtype_name(fast_dtype(acts)) if on_cpu(acts) else "cuda"]


def coactivations_are_few(codes: Codes) -> bool:
    """See `most_to_walk`."""
    return codes.coactivations < most_to_walk(codes)


def _from_coactivations(codes: Codes, count: int, measure: Measure, min_coactivations: int, shrinkage: float) -> Pairs:
    if measure == "cosine" and on_cpu(codes):
        i, j, score = _strongest(codes, count, min_coactivations, shrinkage)
        if min_coactivations == 0 and i.numel() < count:
            i, j, score = _with_zeros(i, j, score, count, codes.d_sae)
        return Pairs.of(i, j, score).strongest(count)
    mean, inverse = codes.moments(centred=measure == "pearson")
    i, j, together, dot = dots(codes)
    score = (dot - codes.rows * mean[i] * mean[j]) * inverse[i] * inverse[j]
    if shrinkage > 0:
        score *= together.double() / (together + shrinkage)
    score = score.abs().to(codes.value.dtype)
    some = (score > NOISE[score.dtype]) & (together >= min_coactivations)
    least = float(NOISE[score.dtype])
    if int(some.sum()) > count:  # fewer to sort
        least = largest(score[some], count)
        some &= score >= least
    if measure == "pearson" and min_coactivations == 0 and shrinkage == 0:
        # Two features that never fire together have C = -N mean_i mean_j / (|f_i| |f_j|), a product of two numbers.
        share = mean * inverse * codes.rows**0.5
        apart_i, apart_j = unlisted(i, j, codes.d_sae, lambda rows: share[rows, None] * share >= least * (1 - 1e-6))
        apart = (share[apart_i] * share[apart_j]).to(score.dtype)
        some = torch.cat([some, apart > NOISE[score.dtype]])
        i, j, score = torch.cat([i, apart_i]), torch.cat([j, apart_j]), torch.cat([score, apart])
    i, j, score = i[some], j[some], score[some]
    if min_coactivations == 0 and i.numel() < count:
        i, j, score = _with_zeros(i, j, score, count, codes.d_sae)
    return Pairs.of(i, j, score).strongest(count)


def _strongest(codes: Codes, count: int, min_coactivations: int, shrinkage: float) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs with C above 0 that can be among the `count` best: the rest are scored and forgotten."""
    _, inverse = codes.moments(centred=False)
    unit = codes.value * inverse[codes.feature]
    entries = (codes.start, codes.feature.to(torch.uint32), unit, *codes.by_feature, codes.row, codes.value[:0])
    rules = (count, NOISE[codes.value.dtype], min_coactivations, float(shrinkage), torch.get_num_threads())
    first, second, score, found = compiled(selection_kernels.strongest, *entries, *rules)
    parts = [(k, slice(0, n)) for k, n in enumerate(found.tolist())]
    i, j, score = (torch.cat([t[k] for k in parts]) for t in (first, second, score))
    if len(score) > count:
        kept = score >= largest(score, count)
        i, j, score = i[kept], j[kept], score[kept]
    return i, j, score


def _top_pairs(
    acts: Tensor,
    count: int,
    measure: Measure,
    active: Tensor | None,
    min_coactivations: int,
    shrinkage: float,
    screen: torch.dtype | None,
) -> Pairs:
    unit, _ = unit_columns(acts, measure)
    screen = screen or fast_dtype(unit)
    one_sign = measure == "cosine" and bool((unit >= 0).all())
    keep = _Candidates(count, screen, one_sign, unit)
    for row, column, tile in _tiles(unit.to(screen)):
        if active is not None:
            a, b = active[row : row + TILE], active[column : column + TILE]
            if shrinkage > 0:
                together = a.to(unit.dtype) @ b.to(unit.dtype).t()  # exact, also beside bfloat16
                tile = tile.to(unit.dtype).mul_(together / (together + shrinkage))
            else:
                together = _coactivations(a, b, min_coactivations)
            tile.masked_fill_(together < min_coactivations, 0)
        keep.add(row, column, tile.abs_())
    i, j = keep.pairs()
    score = pair_correlation(unit, i, j).abs()
    if active is not None and shrinkage > 0:
        parts = [(active[i[s]] & active[j[s]]).sum(dim=1) for s in chunks(i.numel(), len(acts))]
        both = torch.cat([i[:0], *parts])
        score *= both.to(score.dtype) / (both + shrinkage)
    some = score > NOISE[unit.dtype]
    i, j, score = i[some], j[some], score[some]
    if min_coactivations == 0 and i.numel() < count:
        if not one_sign and screen is not torch.float64:  # only there is a tile's 0 known to be C = 0
            return _top_pairs(acts, count, measure, active, min_coactivations, shrinkage, torch.float64)
        i, j, score = _with_zeros(i, j, score, count, acts.shape[1])
    return Pairs.of(i, j, score).strongest(count)


def fast_dtype(x: Tensor | Codes) -> torch.dtype:
    """The dtype to screen in: bfloat16 on a CPU that has the instructions, the codes' own otherwise.

    Not on a GPU, where torch may round partial sums to bfloat16, for which the bound above does not hold.
    """
    if x.dtype == torch.float64:
        return torch.float64
    return torch.bfloat16 if on_cpu(x) and has_bfloat16(x.device) else torch.float32


def _tiles(unit: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Tiles (first row, first column, scores) of the upper triangle; the diagonal and what is below it are zero."""
    d_sae = unit.shape[0]
    for row in range(0, d_sae, TILE):
        for column in range(row, d_sae, TILE):
            tile = unit[row : row + TILE] @ unit[column : column + TILE].t()
            yield row, column, tile.triu_(diagonal=1) if row == column else tile


def _coactivations(a: Tensor, b: Tensor, least: int) -> Tensor:
    # bfloat16 holds every whole number up to 256 exactly and never rounds a larger one below it.
    dtype = fast_dtype(torch.empty(0, device=a.device)) if least <= 256 else torch.float32
    return a.to(dtype) @ b.to(dtype).t()


def _screen_error(screen: torch.dtype, final: torch.dtype) -> float:
    """How far a tile's score may be from the score that decides, which is computed in another dtype."""
    # At a lower matmul precision, float32 products may be in TensorFloat-32 or bfloat16.
    if screen is torch.bfloat16 or (screen is torch.float32 and torch.get_float32_matmul_precision() != "highest"):
        return BF16_ERROR
    return FLOAT64_ERROR if screen is final is torch.float64 else FLOAT32_ERROR


class _Candidates:
    """Every pair seen so far that can still be among the `count` best, given how far off a tile's scores may be."""

    def __init__(self, count: int, screen: torch.dtype, one_sign: bool, unit: Tensor) -> None:
        self.count = count
        error = _screen_error(screen, unit.dtype)
        self.relative, self.absolute = (error, 0.0) if one_sign else (0.0, error)
        self.cut = 0.0
        self.limit = max(2 * count, TILE * TILE // 4)
        self.i = torch.empty(0, dtype=torch.int64, device=unit.device)
        self.j = self.i.clone()
        self.score = torch.empty(0, dtype=screen, device=unit.device)

    def add(self, row: int, column: int, scores: Tensor) -> None:
        if self.cut == 0 and scores.numel() > self.count:
            self._raise_cut(scores.flatten())
        i, j = torch.nonzero((scores >= self.cut) & (scores > 0), as_tuple=True)
        self.score = torch.cat([self.score, scores[i, j]])
        self.i, self.j = torch.cat([self.i, i + row]), torch.cat([self.j, j + column])
        if self.score.numel() > self.limit:
            self._prune()

    def pairs(self) -> tuple[Tensor, Tensor]:
        if self.score.numel() > self.count:
            self._prune()
        return self.i, self.j

    def _raise_cut(self, scores: Tensor) -> None:
        """The count-th best true score is at least (count-th best seen - error), so nothing below that less another
        error can be among the best."""
        kth = float(torch.topk(scores, self.count, sorted=False).values.min())
        cut = (kth * (1 - self.relative) - self.absolute) / (1 + self.relative) - self.absolute
        self.cut = max(self.cut, cut)

    def _prune(self) -> None:
        self._raise_cut(self.score)
        keep = self.score >= self.cut
        self.i, self.j, self.score = self.i[keep], self.j[keep], self.score[keep]


def _with_zeros(i: Tensor, j: Tensor, score: Tensor, count: int, d_sae: int) -> tuple[Tensor, Tensor, Tensor]:
    """Fill up with pairs that never fire together, first (i, j) first."""
    ranks = torch.arange(min(count + i.numel(), num_pairs(d_sae)), device=i.device)
    zero_i, zero_j = unrank(ranks, d_sae)
    new = ~torch.isin(zero_i * d_sae + zero_j, i * d_sae + j)
    zero_i, zero_j = zero_i[new][: count - i.numel()], zero_j[new][: count - i.numel()]
    return torch.cat([i, zero_i]), torch.cat([j, zero_j]), torch.cat([score, score.new_zeros(zero_i.numel())])
