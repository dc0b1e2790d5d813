"""Mutual information of two features by Gaussian product-kernel density estimation, exactly: MI-Ortho's estimator.

    I(f_i, f_j) = (1/N) sum_l ln [ p(x_l, y_l) / (p(x_l) p(y_l)) ]   in nats,

each density a mean of Gaussian kernels at all N rows, the row l itself included, with bandwidth h = 0.15 N^(-1/5). The
kernels' normalising constants cancel. The estimate is biased upwards, much so for dense codes: two independent unit
Gaussians at N = 2048 get 0.80 nats. A pair may also come out a little below 0.

`kde_dense` is the formula. `kde_pairs` and `kde_all_pairs` give the same from sums over the rows where features fire:
with K a kernel and m(x) the mean of K(x - x_l),

    J(x, y) = K(y) m_i(x) + K(x) m_j(y) - K(x) K(y) + (1/N) sum_l [K(x - x_l) - K(x)] [K(y - y_l) - K(y)]

where the last sum is over rows in which both fire, and rows in which neither does all give the same term.

Reference: *MI-Ortho*, Eq. (8).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import get_num_threads
from torch import Tensor
from torch.autograd.function import once_differentiable

from sleave.base.errors import SleaveError, check_one_of
from sleave.base.progress import progress as progress_bar
from sleave.codes.compiled import as_many_threads, call, on_cpu
from sleave.dependence import kde_kernels
from sleave.dependence.kde_kernels import Floats, Ints
from sleave.dependence.pairs import chunks, num_pairs

BandwidthScale = Literal["absolute", "std"]
FACTOR = 0.15

# Two blocks of features are loaded at once.
BLOCK = 1024  # features in a block, at most
KERNELS = 1 << 25  # between own points of a block's features, at most, 256 MB; but a block is one feature at least
BATCH = 1 << 17  # pairs between two moves of a progress bar
PARTS = 64  # of the pairs, for threads to share
GRADIENT_PARTS = 16  # the same, where each has sums of its own; a fixed number, whatever the number of threads
SECONDS = 5e-10  # about, for a kernel product on one core; a pair costs 16 of them for each of its points besides
SHOWN_AFTER = 5.0  # seconds that all pairs must be expected to take for a progress bar to be shown


def check_factor(factor: float) -> float:
    """The bandwidth factor; a SleaveError if it is not above 0."""
    if not 0 < factor < float("inf"):
        raise SleaveError(
            f"The bandwidth's factor (= {factor}) must be above 0: it is factor * N^(-1/5), {FACTOR} in the paper."
        )
    return factor


def check_scale(scale: str) -> BandwidthScale:
    """The bandwidth scale of that name; a SleaveError if there is none."""
    check_one_of("bandwidth_scale", scale, get_args(BandwidthScale))
    return cast(BandwidthScale, scale)


def bandwidth(
    acts: Float[Tensor, "batch d_sae"], factor: float = FACTOR, scale: str = "absolute"
) -> Float[Tensor, " d_sae"]:
    """Each column's kernel bandwidth h in float64, without gradient.

    Args:
        acts: the codes.
        factor: h = factor * N^(-1/5).
        scale: `absolute` is the paper's, h as it is, in units of activation; `std` multiplies it by the column's
            population standard deviation over all rows. A constant column then gets h = 0, which stands for "carries no
            information": its MI with anything is 0.

    Raises:
        SleaveError: the codes are not a matrix of at least two rows, or hold NaN or infinite values; `factor` is not
            above 0; there is no such scale.

    Reference: *MI-Ortho*, section 4, h_n = 0.15 n^(-1/5).
    """
    check_factor(factor)
    check_scale(scale)
    if acts.ndim != 2 or acts.shape[0] < 2:
        raise SleaveError(f"`acts` has shape {tuple(acts.shape)}; it must be (batch, d_sae), with at least 2 rows.")
    acts = acts.detach()
    bad = int((~torch.isfinite(acts)).any(dim=0).sum())
    if bad:
        raise SleaveError(
            f"`acts` holds NaN or infinite values in {bad} of {acts.shape[1]} features; "
            "no density can be computed. Check the inputs, or lower the learning rate."
        )
    h = torch.full((acts.shape[1],), factor * acts.shape[0] ** -0.2, dtype=torch.float64, device=acts.device)
    if scale == "absolute":
        return h
    # Rounding leaves the deviation of a constant column with a tiny remainder, and its codes would seem to differ.
    return h * acts.double().std(dim=0, correction=0) * (acts != acts[:1]).any(dim=0)


def kde_dense(
    x: Float[Tensor, "pairs batch"],
    y: Float[Tensor, "pairs batch"],
    hx: Float[Tensor, " pairs"],
    hy: Float[Tensor, " pairs"],
) -> Float[Tensor, " pairs"]:
    """I of each row of x with the same row of y, in nats, in the widest dtype: the formula itself, N^2 kernels a pair.

    Differentiable in x and y, for which all those kernels are kept; without gradient they are computed piece by piece.

    Args:
        hx, hy: bandwidths; 0 for a column that counts as constant (see `bandwidth`).
    """
    x, y = _in_bandwidths(x, hx), _in_bandwidths(y, hy)
    parts = [sum(_log_ratios(x[p], y[p], rows) for rows in slices) for p, slices in _pieces(x)]
    return torch.cat(cast(list[Tensor], parts)) if parts else x.new_zeros(0)


def kde_pairs(
    acts: Float[Tensor, "batch d_sae"],
    i: Int[Tensor, " pairs"],
    j: Int[Tensor, " pairs"],
    factor: float = FACTOR,
    scale: str = "absolute",
) -> Float[Tensor, " pairs"]:
    """I of some pairs of features, in nats, in float64, differentiable in the codes.

    Two features that fire n_i and n_j times, c times together, cost about (n_i + n_j) c kernel products, their gradient
    n_i^2 + n_j^2; codes that are never zero cost as much as `kde_dense`. On a GPU it is `kde_dense`.

    The gradient of a code that is exactly zero is defined as 0, for an activation function passes none on there. The
    bandwidth counts as a constant, also where it is a column's deviation (`std`).

    Raises:
        SleaveError: as `bandwidth`.
    """
    result: Tensor = _KdePairs.apply(acts, i, j, bandwidth(acts, factor, scale))
    return result


def kde_all_pairs(
    acts: Float[Tensor, "batch d_sae"],
    factor: float = FACTOR,
    scale: str = "absolute",
    progress: bool | None = None,
) -> Float[Tensor, "d_sae d_sae"]:
    """I of every pair, in nats: a symmetric matrix in float64, with zeros on its diagonal; no gradient.

    Always computed on the CPU, and on the codes' device when returned.

    Args:
        progress: whether to show a progress bar; by default where it is expected to take more than a few seconds.

    Raises:
        SleaveError: as `bandwidth`.
    """
    u = _in_bandwidths(acts.detach().t(), bandwidth(acts, factor, scale)).cpu().numpy()
    d_sae = len(u)
    sheet = _Sheet(u)
    result = np.zeros((d_sae, d_sae))
    shown = sheet.expected_seconds() > SHOWN_AFTER if progress is None else progress
    bar = progress_bar("KDE mutual information", num_pairs(d_sae), "pairs") if shown else nullcontext()
    with as_many_threads(), bar as advance:
        for first, block in enumerate(sheet.blocks):
            for second in range(first, len(sheet.blocks)):
                i, j = (m.ravel() for m in np.meshgrid(block, sheet.blocks[second], indexing="ij"))
                i, j = i[i < j], j[i < j]
                sheet.load(first, second)
                for start in range(0, len(i), BATCH):
                    a, b = i[start : start + BATCH], j[start : start + BATCH]
                    result[a, b] = result[b, a] = call(kde_kernels.information, sheet.points, a, b, PARTS)
                    if advance is not None:
                        advance(len(a), "")
    return torch.from_numpy(result).to(acts.device)


def _in_bandwidths(x: Tensor, h: Tensor) -> Tensor:
    """Rows divided by their bandwidths, in the wider dtype; where that is 0 the row counts as constant."""
    return torch.where(h > 0, x.T / torch.where(h > 0, h, 1), 0).T


def _pieces(x: Tensor) -> Iterator[tuple[slice, list[slice]]]:
    """Slices of pairs, and of the rows to evaluate them at, that keep the kernels within cache (or a GPU's memory)."""
    pairs, rows = x.shape
    budget = 1 << (24 if x.device.type == "cuda" else 18)
    for part in chunks(pairs, rows, budget):
        yield part, chunks(rows, (part.stop - part.start) * rows, budget)


def _log_ratios(x: Tensor, y: Tensor, rows: slice) -> Tensor:
    """(1/N) sum over some rows of ln p(x, y) / (p(x) p(y)), of codes in units of the bandwidth."""
    dx, dy = ((z[:, rows, None] - z[:, None, :]).square() / -2 for z in (x, y))
    joint, p_x, p_y = (d.exp().mean(dim=2).log() for d in (dx + dy, dx, dy))
    return (joint - p_x - p_y).sum(dim=1) / x.shape[1]


class _KdePairs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, acts: Tensor, i: Tensor, j: Tensor, h: Tensor) -> Tensor:
        with torch.autocast(acts.device.type, enabled=False):
            features, index = torch.cat([i, j]).unique(return_inverse=True)
            i, j = index.chunk(2)
            u = _in_bandwidths(acts[:, features].t(), h[features]).contiguous()
            ctx.save_for_backward(features, i, j, u, h)
            ctx.acts = (acts.shape, acts.dtype)
            if not on_cpu(acts):
                one = u.new_ones(len(i))
                return kde_dense(u[i], u[j], one, one)
            with as_many_threads():
                return torch.from_numpy(_Sheet(u.numpy()).information(i.numpy(), j.numpy()))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        features, i, j, u, h = ctx.saved_tensors
        shape, dtype = ctx.acts
        with torch.autocast(u.device.type, enabled=False):
            if not on_cpu(u):
                columns = _dense_gradient(u, i, j, grad_output)
            else:
                with as_many_threads():
                    columns = torch.from_numpy(_Sheet(u.numpy()).gradient(i.numpy(), j.numpy(), grad_output.numpy()))
            inverse = torch.where(h > 0, 1 / h, 0)[features]
            grad = columns.new_zeros(shape, dtype=dtype)
            grad[:, features] = (columns * inverse[:, None]).t().to(dtype)
        return grad, None, None, None


def _dense_gradient(u: Tensor, i: Tensor, j: Tensor, upstream: Tensor) -> Tensor:
    """The gradient by u of sum over pairs of upstream * I, piece by piece."""
    grad = torch.zeros_like(u)
    for part, slices in _pieces(u[i]):
        for rows in slices:
            with torch.enable_grad():
                x, y = (u[k[part]].requires_grad_() for k in (i, j))
                total = (_log_ratios(x, y, rows) * upstream[part]).sum()
            for k, slope in zip((i, j), torch.autograd.grad(total, (x, y)), strict=True):
                grad.index_add_(0, k[part], slope)
    return torch.where(u != 0, grad, 0)


class _Sheet:
    """Codes laid out for the kernels, and which features' own kernels are loaded: those of two blocks at a time.

    Args:
        u: (d_sae, batch) codes in units of the bandwidth.
    """

    def __init__(self, u: Floats) -> None:
        feature, row = u.nonzero()
        self.fired = np.bincount(feature, minlength=len(u))
        self.blocks = _blocks(self.fired)
        self._half = max((int((self.fired[b] ** 2).sum()) for b in self.blocks), default=0)
        self._loaded: list[int | None] = [None, None]
        self.points = kde_kernels.Points(
            rows=u.shape[1],
            start=np.concatenate([[0], self.fired.cumsum()]),
            row=np.ascontiguousarray(row),
            u=u[feature, row],
            near=np.empty(len(row)),
            density=np.empty(len(row)),
            at_zero=np.empty(len(u)),
            square=np.zeros(len(u), np.int64),
            kernels=np.empty(self._half * min(2, len(self.blocks))),
        )

    def load(self, first: int, second: int) -> None:
        """Have two blocks (or one, given twice) at hand."""
        for place, block in enumerate((first, second)):
            if self._loaded[place] != block and (place == 0 or second != first):
                features = self.blocks[block]
                squares = self.fired[features] ** 2
                self.points.square[features] = place * self._half + squares.cumsum() - squares
                call(kde_kernels.load, self.points, features)
                self._loaded[place] = block
                if self._loaded[1 - place] == block:  # whose kernels are now looked up here
                    self._loaded[1 - place] = None

    def information(self, i: Ints, j: Ints) -> Floats:
        """I of each pair."""
        result = np.empty(len(i))
        for first, second, pairs in self._tiles(i, j):
            self.load(first, second)
            result[pairs] = call(kde_kernels.information, self.points, i[pairs], j[pairs], PARTS)
        return result

    def gradient(self, i: Ints, j: Ints, upstream: Floats) -> Floats:
        """(d_sae, batch) gradient by u of sum over pairs of upstream * I, where u is not zero."""
        points = self.points
        parts = np.zeros((GRADIENT_PARTS, len(points.u)))
        for first, second, pairs in self._tiles(i, j):
            self.load(first, second)
            call(kde_kernels.joint_slopes, points, i[pairs], j[pairs], upstream[pairs], parts)
        slopes = parts.sum(axis=0)
        # The marginals' part is each feature's own, as often as the feature occurs.
        times = np.zeros(len(self.fired))
        np.add.at(times, i, upstream)
        np.add.at(times, j, upstream)
        for block, features in enumerate(self.blocks):
            self.load(block, block)
            call(kde_kernels.marginal_slopes, points, features, times, slopes)
        result = np.zeros((len(times), points.rows))
        result[np.repeat(np.arange(len(times)), self.fired), points.row] = slopes / points.rows
        return result

    def expected_seconds(self) -> float:
        """About how long all pairs take, if features fire independently."""
        n = self.fired.astype(float)
        products = n.sum() * (n**2).sum() / self.points.rows + 16 * len(n) * n.sum()
        return float(products * SECONDS / get_num_threads())

    def _tiles(self, i: Ints, j: Ints) -> Iterator[tuple[int, int, Ints]]:
        """Pairs of blocks, and where in (i, j) the pairs between them are."""
        block = np.repeat(np.arange(len(self.blocks)), [len(b) for b in self.blocks])
        low, high = np.minimum(block[i], block[j]), np.maximum(block[i], block[j])
        tile = low * len(self.blocks) + high
        order = np.lexsort((j, i, tile))
        for pairs in np.split(order, np.flatnonzero(np.diff(tile[order])) + 1):
            if len(pairs):
                yield int(low[pairs[0]]), int(high[pairs[0]]), pairs


def _blocks(fired: Ints) -> list[Ints]:
    """Consecutive features whose kernels fit in memory together, at least one in each block."""
    starts, total = [0], 0
    for i, squares in enumerate(int(n) ** 2 for n in fired):
        if i > starts[-1] and (i - starts[-1] == BLOCK or total + squares > KERNELS):
            starts.append(i)
            total = 0
        total += squares
    return np.split(np.arange(len(fired)), starts[1:])
