"""How fast this machine is, and how long a step takes on it: an estimate, meant to be within a factor of 1.5.

A step is its matrix products at the rate that they reach in the shape at hand; what fires alone, at the rate at which
rows of the weights are added up; and passes over the batch's codes at the rate at which they go through a ReLU and back
again: in its shape, since that is mostly a question of how fast the system hands out new memory. How many passes each
thing takes, and how long what walks lists, was fitted to measured steps (benchmarks/constraint_cost_avx2.txt,
pair_selection.txt, scaling.txt; tests/experiment/test_plan.py has some).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch

from sleave.base.device import choose_device
from sleave.codes.codes import Codes
from sleave.codes.products import row_sums
from sleave.experiment.cost import entry_flops, firing, flops_per_token, fused, product_flops, square_flops
from sleave.experiment.needs import Sizes, model_dtype, training_dtype
from sleave.language.settings import ModelShape
from sleave.recipe import Recipe

SECONDS = 0.7  # for each of the three figures
MOST = 1 << 24  # numbers in the matrix that a pass is timed on
FIRE = 32  # features on a row, where rows of the weights are added up

# Passes over (batch, d_sae) codes that a step takes beside its products.
PASSES = {"relu": 2.0, "jumprelu": 4.8, "gated": 6.0}
SPARSE_PASSES = 0.08  # to find the largest of all pre-activations, or what fires
FULL_PASSES = 1.0
CHOICE_PASSES = 0.5
PENALTY_PASSES = 0.2
ADAM_PASSES = 0.2  # over the weights
# Seconds on one core or two, of what walks lists.
COUNTED = 7e-9  # for each time two features fire together, of a choice by mutual information
KDE_COACTIVATION = 4e-7  # the same by kernel density estimates
SCORED = 1e-8  # the same by cosines
LISTED = 9e-8  # for each pair that fires together at all, where those are listed
PICKED = 1.5e-7  # for each pair that is chosen
WALKED = 5.5e-9  # for each time two features fire together, of a penalty
CHOSEN = 4e-9  # for each chosen pair, of a penalty
DROPPED = 1e-8  # for each code, of dropout: random numbers are drawn one after the other
HARVEST = 0.65  # share of a product's rate that a language model reaches


@dataclass(frozen=True)
class Rates:
    """What this machine does in a second.

    Attributes:
        flops: operations of a matrix product in the training's precision and shape.
        codes: that go through a ReLU and, as its gradient, back, all in new memory.
        entries: operations on rows of the weights that are added up, times the codes that fire.
    """

    flops: float
    codes: float
    entries: float


def calibrate(recipe: Recipe, d_in: int) -> Rates:
    """Measure for a few seconds, each rate as the median of several; each shape once a process.

    Raises:
        SleaveError: there is no such device here.
    """
    size = Sizes.of(recipe, d_in)
    return _calibrate(size.rows, d_in, size.d_sae, training_dtype(recipe), recipe.training.device)


def calibrate_model(recipe: Recipe, d_in: int) -> float:
    """`Rates.flops` of what the language model computes: in its own precision, on its own device.

    Raises:
        SleaveError: there is no such device here.
    """
    device = choose_device(recipe.model.device)
    return _product_rate(recipe.harvest.batch_tokens, d_in, 4 * d_in, model_dtype(recipe), device)


@cache
def _calibrate(rows: int, d_in: int, d_sae: int, dtype: torch.dtype, device_name: str) -> Rates:
    device = choose_device(device_name)
    d_sae = max(1, min(d_sae, MOST // rows))
    pre_acts = torch.randn(rows, d_sae, device=device, requires_grad=True)

    def there_and_back() -> None:
        acts = torch.relu(pre_acts + 0.0)
        (acts.to(dtype).sum(dtype=torch.float32) + acts.sum()).backward()
        pre_acts.grad = None

    codes, decoder = _few_codes(rows, d_sae, device), torch.randn(d_sae, d_in, device=device)
    flops = _product_rate(rows, d_in, d_sae, dtype, device)
    passed = _median_seconds(there_and_back, device)
    added = _median_seconds(lambda: row_sums(codes, codes.value, decoder), device)
    return Rates(flops, rows * d_sae / passed, 2.0 * d_in * codes.value.numel() / added)


@cache
def _product_rate(rows: int, d_in: int, d_sae: int, dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a matrix product."""
    d_sae = max(1, min(d_sae, MOST // rows))
    x = torch.randn(rows, d_in, device=device).to(dtype)
    weights = torch.randn(d_in, d_sae, device=device).to(dtype)
    few = x[: max(1, rows // 64)]
    if 64 * _median_seconds(lambda: few @ weights, device, seconds=0) > SECONDS:
        x = few  # a precision that this machine is slow in
    return 2.0 * len(x) * d_in * d_sae / _median_seconds(lambda: x @ weights, device)


def _few_codes(rows: int, d_sae: int, device: torch.device) -> Codes:
    """Of which some fire on each row, one in each of as many parts of the dictionary."""
    part = max(1, d_sae // FIRE)
    first = torch.arange(d_sae // part, device=device) * part
    feature = first + torch.randint(part, (rows, len(first)), device=device)
    start = torch.arange(rows + 1, device=device) * len(first)
    return Codes(d_sae, start, feature.flatten(), torch.rand(feature.numel(), device=device))


def _median_seconds(act: Callable[[], object], device: torch.device, seconds: float = SECONDS) -> float:
    """Of one call, once warm."""
    for _ in range(2):
        act()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        act()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def harvest_seconds(recipe: Recipe, shape: ModelShape, tokens: int, flops: float) -> float:
    """How long a language model reads so many tokens, at so many operations a second in its products."""
    return tokens * flops_per_token(recipe, shape) / (HARVEST * flops)


def seconds_per_step(recipe: Recipe, d_in: int, rates: Rates) -> float:
    """How long a training step takes."""
    size = Sizes.of(recipe, d_in)
    codes = float(size.batch) * size.d_sae
    passes = codes * (SPARSE_PASSES if size.sparse or fused(recipe) else PASSES[recipe.autoencoder.kind])
    passes += ADAM_PASSES * size.parameters
    seconds = product_flops(recipe, size) / rates.flops + passes / rates.codes
    if recipe.autoencoder.dropout:
        seconds += DROPPED * (size.batch * size.firing if size.sparse else codes)
    return seconds + entry_flops(recipe, size) / rates.entries + _constraint(recipe, size, rates)


def _constraint(recipe: Recipe, size: Sizes, rates: Rates) -> float:
    """What a constraint takes in a step."""
    constraint = recipe.constraint
    if constraint.kind == "none" or constraint.kind == "decoder":  # the latter is all products with the weights
        return 0.0
    one_pass = 0.0 if size.sparse else size.batch * size.d_sae / rates.codes
    squares = math.inf if size.sparse else square_flops(recipe, size) / rates.flops
    fire = firing(recipe, size)
    coactivations = size.batch * fire**2 / 2
    if constraint.kind == "full":
        products = FULL_PASSES * one_pass + squares
        if not size.sparse and not fused(recipe):
            return products
        together = replace(size, firing=fire).together()
        return min(products, (COUNTED + WALKED) * coactivations + (LISTED + CHOSEN) * together)
    together = replace(size, firing=fire).together(constraint.window)
    top = min(constraint.top * size.pairs, together)
    entries = size.batch * fire / size.d_sae  # of a feature: a penalty goes through its partners', if that is less
    penalty = PENALTY_PASSES * one_pass + WALKED * min(coactivations, 2 * top * entries) + CHOSEN * top
    # Batches that choices are made from, in a step.
    seen = constraint.window * (1 + constraint.compare) / (constraint.refresh or recipe.training.steps)
    choices = seen / constraint.window
    if constraint.kind == "gradient" and not size.sparse:
        return penalty + seen * CHOICE_PASSES * one_pass + squares
    if constraint.kind in ("selective", "gradient"):
        walked = seen * SCORED * coactivations + choices * PICKED * constraint.top * size.pairs
        return penalty + min(seen * CHOICE_PASSES * one_pass + squares, walked)
    by_kde = getattr(constraint, "estimator", "kde" if constraint.kind == "information" else "atoms") == "kde"
    counted = KDE_COACTIVATION if by_kde else COUNTED
    return penalty + seen * counted * coactivations + choices * (LISTED * together + PICKED * top)
