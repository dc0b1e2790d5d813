"""sum over pairs of w_ij C_ij^p, p = 1 or 2, and its gradient, by whichever of three ways takes the least work.

With Z the scaled columns and S the symmetric matrix S_ij = p w_ij C_ij^(p - 1) on the pairs, the gradient
in column i is (S Z - diag(S C) Z)_i / |f_i|; the second part is the norms', so that scaling a feature up or down gains
nothing. A code that is zero gets no gradient: no activation function would pass it on, and so all sums run over what
fires.

Within a training step that ranks share (`sleave.base.ranks`), columns go on over all of them: norms and C are sums over
ranks, and each gets the gradient at its own rows, times their number, since gradients are then averaged.

    over pairs          |T| * N     gathers the columns of each pair; the reference
    over coactivations  twice       walks what fires together; for sparse codes
    dense               d_sae^2 * N matrix products; for many pairs of dense codes
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sleave.base.errors import SleaveError, check_one_of
from sleave.base.ranks import Ranks, current
from sleave.codes.codes import Codes, few_coactivations
from sleave.codes.compiled import compiled, on_cpu
from sleave.dependence.coactivation import dots, entries_together
from sleave.dependence.correlation import copied_columns, pair_correlation, unit_columns
from sleave.dependence.pairs import Pairs
from sleave.dependence.selection import most_to_walk
from sleave.penalties import kernels

# `dot` is f_i.f_j itself, neither centred nor scaled: the form of MI-Ortho's Eq. (11).
Strength = Literal["cosine", "pearson", "dot"]
Way = Literal["pairs", "coactivations", "dense"]
COLUMNS = 4096  # columns of C that the dense way holds at once
# What each way takes in seconds per pair and row, per co-activation walked, and per two features and row; and for each
# number of dense codes made of those that fire, and of its gradient. Only their ratios count. Measured on 2 cores of a
# CPU; of a GPU counted from what its maker states of its memory and products (`benchmarks.scaling_elsewhere`).
COST = {
    "cpu": {"pairs": 9e-9, "coactivations": 1.2e-9, "dense": 2e-11, "densify": 2e-8},
    "cuda": {"pairs": 1.2e-11, "coactivations": 1.8e-10, "dense": 1.3e-13, "densify": 1e-11},
}


def pair_penalty(
    acts: Float[Tensor, "batch d_sae"] | Codes,
    pairs: Pairs | None,
    weight: Float[Tensor, " pairs"] | None = None,
    measure: str = "cosine",
    way: Way | None = None,
    power: int = 2,
) -> Float[Tensor, ""]:
    """sum_T w_ij C_ij^power, differentiable in the codes (not in the weights).

    Args:
        acts: the codes. Computed in float64 if they are, in float32 otherwise. Of `Codes`, what fires together is
            walked, and their values get the gradient; where that would be more work, dense ones are made.
        pairs: T, each pair once; None for all P pairs.
        weight: one number per pair; 1 if absent.
        measure: what C is: `cosine`, `pearson`, or `dot` (f_i.f_j itself).
        way: how it is computed from dense codes, by default what takes the least work; it does not change the result,
            but that under autocast `dense` runs in its dtype.
        power: 2, or 1, which pushes a pair as hard when C is small; it needs pairs.

    Raises:
        SleaveError: another measure or power, or pairs of a wider dictionary.

    Reference: *Top-k feature decorrelation*, the last term of Eq. (7); *MI-Ortho*, the last term of Eq. (11).
    """
    check_one_of("measure", measure, get_args(Strength))
    if power != 2 and (power != 1 or pairs is None):
        raise SleaveError(f"`power` (= {power}) must be 2, or 1 with chosen pairs.")
    if pairs is not None and pairs.width > acts.shape[1]:
        raise SleaveError(
            f"`acts` has {acts.shape[1]} features, but a chosen pair names feature {pairs.width - 1}. "
            "Use a penalty for one autoencoder only."
        )
    if pairs is not None and weight is None:
        weight = torch.ones_like(pairs.score)
    if isinstance(acts, Codes):
        ranks = current().rows
        if pairs is None and measure != "pearson" and ranks.size == 1:  # only what fires together has C other than 0
            pairs, weight = _together(acts), None
        if pairs is not None and ranks.all(_walking_is_less_work(acts, pairs)):
            weight = torch.ones_like(pairs.score) if weight is None else weight
            walked: Tensor = _CodesPenalty.apply(acts.value, acts, pairs, weight, measure, power)
            return walked
        acts = acts.to_dense()
    result: Tensor = _PairPenalty.apply(acts, pairs, weight, measure, way, power)
    return result


def _together(codes: Codes) -> Pairs | None:
    """Every pair that fires together; None if there is a quicker way than listing them."""
    # Products in autocast's dtype, where it is on, take about a quarter of the time.
    less = 4 if torch.is_autocast_enabled(codes.device.type) else 1
    if less * codes.coactivations >= most_to_walk(codes):
        return None
    i, j, _, dot = dots(codes.detach())
    return Pairs.of(i, j, dot)


def _walking_is_less_work(codes: Codes, pairs: Pairs) -> bool:
    cost = _cost(codes)
    dense = min(len(pairs) * codes.rows * cost["pairs"], codes.d_sae**2 * codes.rows * cost["dense"])
    dense += codes.rows * codes.d_sae * cost["densify"]
    return 2 * codes.coactivations * cost["coactivations"] <= dense


def _least_work(acts: Tensor, pairs: Pairs | None) -> tuple[Way, Codes | None]:
    """The way with the least work, and the codes if that is to walk them."""
    if pairs is None:
        return "dense", None
    rows, d_sae = acts.shape
    cost = _cost(acts)
    work: dict[Way, float] = {"pairs": len(pairs) * rows * cost["pairs"], "dense": d_sae**2 * rows * cost["dense"]}
    way = min(work, key=lambda way: work[way])
    codes = few_coactivations(acts, work[way] / (2 * cost["coactivations"]))
    return ("coactivations", codes) if current().rows.all(codes is not None) else (way, None)


def _cost(acts: Tensor | Codes) -> dict[str, float]:
    return COST["cpu" if on_cpu(acts) else "cuda"]


class _PairPenalty(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        acts: Tensor,
        pairs: Pairs | None,
        weight: Tensor | None,
        measure: Strength,
        way: Way | None,
        power: int,
    ) -> Tensor:
        device = acts.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        ranks = current().rows
        ctx.acts = (acts.shape, acts.dtype)
        ctx.ranks = ranks.size
        with torch.autocast(device, enabled=False):
            codes = None
            if way is None:
                way, codes = _least_work(acts, pairs)
            if pairs is None or way == "dense":
                value, gradient = _dense(acts, pairs, weight, measure, dtype, power, ranks)
            elif way == "coactivations":
                codes = codes or Codes.from_dense(acts)
                value, gradient, ctx.entries = _over_coactivations(codes, pairs, weight, measure, power, ranks)
            else:
                value, gradient = _over_pairs(acts, pairs, weight, measure, power, ranks)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        gradient = gradient * (grad_output * ctx.ranks)
        shape, dtype = ctx.acts
        if (entries := getattr(ctx, "entries", None)) is None:
            return gradient.to(dtype), None, None, None, None, None
        dense = torch.zeros(shape, dtype=dtype, device=gradient.device)
        dense.view(-1)[entries] = gradient.to(dtype)
        return dense, None, None, None, None, None


class _CodesPenalty(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, codes: Codes, pairs: Pairs, weight: Tensor, measure: Strength, power: int
    ) -> Tensor:
        ranks = current().rows
        ctx.ranks = ranks.size
        with torch.autocast(value.device.type, enabled=False):
            codes = codes.with_value(value.detach())
            total, gradient, _ = _over_coactivations(codes, pairs, weight, measure, power, ranks)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * (grad_output * ctx.ranks), None, None, None, None, None


def _slopes(correlation: Tensor, weight: Tensor, power: int) -> tuple[Tensor, Tensor]:
    """w C^p of each pair, and its derivative in C."""
    if power == 1:
        return weight * correlation, weight
    return weight * correlation.square(), 2 * weight * correlation


def _columns(acts: Tensor, measure: Strength, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Scaled columns (d_sae, batch), and what they were multiplied by."""
    if measure != "dot":
        return unit_columns(acts, measure, ranks)
    columns = copied_columns(acts)
    return columns, columns.new_ones(len(columns))


def _over_pairs(
    acts: Tensor, pairs: Pairs, weight: Tensor | None, measure: Strength, power: int, ranks: Ranks
) -> tuple[Tensor, Tensor]:
    assert weight is not None
    features, index = torch.cat([pairs.i, pairs.j]).unique(return_inverse=True)
    i, j = index.chunk(2)
    unit, inverse = _columns(acts[:, features], measure, ranks)
    correlation = ranks.sum(pair_correlation(unit, i, j))
    terms, slope = _slopes(correlation, weight.to(unit.dtype), power)
    pull = torch.zeros_like(inverse)
    if measure != "dot":
        pull.index_add_(0, i, slope * correlation).index_add_(0, j, slope * correlation)
    own = torch.arange(features.numel(), device=i.device)
    matrix = _sparse(torch.cat([i, j, own]), torch.cat([j, i, own]), torch.cat([slope, slope, -pull]), features.numel())
    columns = (matrix @ unit).mul_(inverse[:, None])
    gradient = columns.new_zeros(acts.shape)
    gradient[:, features] = columns.t().mul_(acts[:, features] != 0)
    return terms.sum(), gradient


def _sparse(row: Tensor, column: Tensor, value: Tensor, size: int) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*[Ss]parse.*(beta|invariant)", category=UserWarning)
        return torch.sparse_coo_tensor(
            torch.stack([row, column]), value, (size, size), check_invariants=False
        ).to_sparse_csr()


def _over_coactivations(
    codes: Codes, pairs: Pairs, weight: Tensor | None, measure: Strength, power: int, ranks: Ranks
) -> tuple[Tensor, Tensor, Tensor]:
    """The value, the gradient at the entries that fire, and where in the flattened codes those are."""
    assert weight is not None
    mean = torch.zeros(codes.d_sae, dtype=torch.float64, device=codes.device)
    inverse = torch.ones_like(mean)
    if measure != "dot":
        mean, inverse = codes.moments(measure == "pearson", ranks)
    pull, dtype, place = float(measure != "dot"), codes.value.dtype, codes.row * codes.d_sae + codes.feature
    if not on_cpu(codes):
        total, gradient = reference_coactivations(codes, pairs, weight, mean, inverse, pull, power, ranks)
        return total.to(dtype), gradient.to(dtype), place
    near, partner, number = pairs.neighbours(codes.d_sae)
    start, order = codes.by_feature
    parts = torch.get_num_threads()
    if measure != "pearson" and ranks.size == 1:
        unit = codes.value * inverse[codes.feature]  # in float64: a gradient across C near 1 is a small difference
        by_row = (codes.start, codes.feature.to(torch.uint32), unit)
        by_feature = (start, codes.row[order].to(torch.uint32), unit[order])
        both = pairs.of_neighbours(weight.to(torch.promote_types(weight.dtype, torch.float32)))
        given = (*by_row, *by_feature, near, partner.view(torch.uint32), both, inverse, pull, power, parts)
        twice, along = compiled(kernels.uncentred, *given)
        gradient = torch.empty_like(along).index_copy_(0, order, along)
        return torch.tensor(twice / (2 * power), dtype=dtype), gradient.to(dtype), place
    entries = (codes.start, codes.feature, codes.value, codes.row, start, order, near, partner)
    correlation = ranks.sum(compiled(kernels.correlations, *entries, number, mean, inverse, parts))
    terms, slope = _slopes(correlation, weight.double(), power)
    slopes = torch.stack([slope, slope * correlation], dim=1)  # read together
    gradient = compiled(kernels.gradient, *entries, number, slopes, mean, inverse, pull, parts)
    return terms.sum().to(dtype), gradient.to(dtype), place


def reference_coactivations(
    codes: Codes, pairs: Pairs, weight: Tensor, mean: Tensor, inverse: Tensor, pull: float, power: int, ranks: Ranks
) -> tuple[Tensor, Tensor]:
    """The value, and the gradient at the entries that fire: in plain torch, for any device."""
    value, feature, (i, j) = codes.value.double(), codes.feature, (pairs.i, pairs.j)
    found = []
    for a, b in entries_together(codes):
        at, number = pairs.find(feature[a], feature[b])
        found.append((a[at], b[at], number))
    a, b, number = (torch.cat(parts) for parts in zip(*found, strict=True))
    dot = value.new_zeros(len(pairs)).index_add_(0, number, value[a] * value[b])
    correlation = ranks.sum((dot - codes.rows * mean[i] * mean[j]) * inverse[i] * inverse[j])
    terms, slope = _slopes(correlation, weight.double(), power)
    own, shift = torch.zeros_like(mean), torch.zeros_like(mean)
    for one, other in ((i, j), (j, i)):
        own.index_add_(0, one, slope * correlation)
        shift.index_add_(0, one, slope * mean[other] * inverse[other])
    along = -shift[feature] - pull * own[feature] * (value - mean[feature]) * inverse[feature]
    for one, other in ((a, b), (b, a)):
        along.index_add_(0, one, slope[number] * value[other] * inverse[feature[other]])
    return terms.sum(), along * inverse[feature]


def _dense(
    acts: Tensor,
    pairs: Pairs | None,
    weight: Tensor | None,
    measure: Strength,
    dtype: torch.dtype | None,
    power: int,
    ranks: Ranks,
) -> tuple[Tensor, Tensor]:
    unit, inverse = _columns(acts, measure, ranks)
    if measure == "dot":
        dtype = None  # products of codes that are not scaled overflow float16
    factor = unit.to(dtype) if dtype else unit
    slope = torch.empty_like(unit)
    terms = torch.zeros_like(inverse)  # sum over j of w_ij C_ij^p
    for start in range(0, unit.shape[0], COLUMNS):
        part = slice(start, start + COLUMNS)
        block = ranks.sum(factor[part] @ factor.t())  # rows `part` of C
        if pairs is None:
            block.diagonal(start).zero_()
            terms[part] = block.to(unit.dtype).square().sum(dim=1)
        else:
            assert weight is not None
            weights = _weights(pairs, weight.to(unit.dtype), unit.shape[0], start, len(block))
            if power == 2:
                weights.mul_(block)
            terms[part] = (weights * block).sum(dim=1)
            block = weights.to(factor.dtype)
        slope[part] = block @ factor
    gradient = slope
    if measure != "dot":
        gradient -= terms[:, None] * unit
    gradient *= power * inverse[:, None]
    return (terms.sum(dtype=torch.float64) / 2).to(unit.dtype), gradient.t() * (acts != 0)


def _weights(pairs: Pairs, weight: Tensor, d_sae: int, first: int, rows: int) -> Tensor:
    """Rows of the symmetric matrix of weights."""
    near, partner, number = pairs.neighbours(d_sae)
    inside = slice(int(near[first]), int(near[first + rows]))
    degree = near[first : first + rows + 1].diff()
    row = torch.repeat_interleave(torch.arange(rows, device=near.device), degree)
    weights = weight.new_zeros(rows, d_sae)
    weights[row, partner[inside]] = weight[number[inside]]
    return weights
