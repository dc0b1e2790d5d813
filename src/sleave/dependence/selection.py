"""The exact top fraction of all P pairs, with memory bounded at any d_sae.

The matrix C is walked in tiles of its upper triangle. A tile may be computed in bfloat16, five times faster where the
machine has the instructions, because its error is bounded: whatever could still belong to the top is kept, and the
few that are kept are computed again in full precision. So the result does not depend on how the tiles were computed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.dependence.correlation import Measure, pair_correlation, unit_columns
from sleave.dependence.pairs import Pairs, num_pairs, top_count, unrank

TILE = 1024

# |tile - C| for unit columns. bfloat16 rounds both factors and the result, each by 2^-9 of its size at most, and
# sum |z_i z_j| <= 1 (Cauchy-Schwarz), hence 3 * 2^-9, and a little for the second order. If no code is negative,
# every term of the sum has one sign, and the same bound holds relative to C. For float32 the sum's own rounding
# rules; 1e-5 is forty times what 100,000 terms were seen to give.
BF16_ERROR = 3.1 * 2.0**-9
FLOAT32_ERROR = 1e-5


def top_pairs(
    acts: Float[Tensor, "batch d_sae"],
    top: float = 0.001,
    *,
    measure: Measure = "cosine",
    min_coactivations: int = 0,
    screen: torch.dtype | None = None,
) -> Pairs:
    """The top fraction of all P = d_sae (d_sae - 1) / 2 pairs by |C_ij|, exactly.

    Ties are broken by (score, i, j): the larger |C| first, then the smaller i, then the smaller j. Pairs with C = 0
    count, as in the paper, so the choice always has round(top P) pairs, unless `min_coactivations` leaves fewer.

    Args:
        acts: codes of a batch (or of several, stacked: that pools numerators and norms separately).
        top: share of all pairs to choose, in (0, 1].
        measure: `cosine` or `pearson`.
        min_coactivations: leave out pairs that fire together in fewer rows than this. Two features that fire once,
            in the same row, have C = 1.
        screen: dtype of the tiles, torch.float32 or torch.bfloat16; by default what is fast on this machine. It does
            not change the result.

    Raises:
        SleaveError: `top` outside (0, 1], fewer than two features, NaN or infinite codes.

    Reference: *Top-k feature decorrelation*, Eq. (5).
    """
    acts = acts.detach()
    count = top_count(top, acts.shape[-1])
    if min_coactivations < 0:
        raise SleaveError(f"`min_coactivations` (= {min_coactivations}) must not be negative.")
    with torch.autocast(acts.device.type, enabled=False):
        return _top_pairs(acts, count, measure, min_coactivations, screen)


def _top_pairs(acts: Tensor, count: int, measure: Measure, min_coactivations: int, screen: torch.dtype | None) -> Pairs:
    unit, _ = unit_columns(acts, measure)
    screen = screen or fast_dtype(unit)
    one_sign = measure == "cosine" and bool((unit >= 0).all())
    active = (acts > 0).t() if min_coactivations > 0 else None
    keep = _Candidates(count, screen, one_sign, unit.device)
    for row, column, tile in _tiles(unit.to(screen)):
        if active is not None:
            a, b = active[row : row + TILE], active[column : column + TILE]
            tile.masked_fill_(_coactivations(a, b, min_coactivations) < min_coactivations, 0)
        keep.add(row, column, tile.abs_())
    i, j = keep.pairs()
    score = pair_correlation(unit, i, j).abs()
    if active is None and i.numel() < count:
        i, j, score = _with_zeros(i, j, score, count, acts.shape[1])
    return _first(i, j, score, count)


def fast_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which this machine multiplies large matrices fastest; float64 input is never screened in less."""
    if x.dtype == torch.float64:
        return torch.float64
    if x.device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if x.device.type == "cpu" and _cpu_has_bf16() else torch.float32


def _cpu_has_bf16() -> bool:
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # torch < 2.10 has none
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16"))


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


class _Candidates:
    """Every pair seen so far that can still be among the `count` best, given how far off a tile's scores may be."""

    def __init__(self, count: int, screen: torch.dtype, one_sign: bool, device: torch.device) -> None:
        self.count = count
        error = {torch.bfloat16: BF16_ERROR, torch.float64: 0.0}.get(screen, FLOAT32_ERROR)
        self.relative, self.absolute = (error, 0.0) if one_sign else (0.0, error)
        self.cut = 0.0
        self.limit = max(2 * count, TILE * TILE // 4)
        self.i = torch.empty(0, dtype=torch.int64, device=device)
        self.j = self.i.clone()
        self.score = torch.empty(0, dtype=screen, device=device)

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
        kth = float(torch.topk(scores.float(), self.count, sorted=False).values.min())
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


def _first(i: Tensor, j: Tensor, score: Tensor, count: int) -> Pairs:
    order = torch.argsort(j, stable=True)
    for key, descending in ((i, False), (score, True)):
        order = order[torch.argsort(key[order], stable=True, descending=descending)]
    order = order[:count]
    return Pairs(i[order], j[order], score[order])
