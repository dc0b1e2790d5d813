"""How fast this machine is, and how long a step takes on it: an estimate, meant to be within a factor of 1.5.

A step is its matrix products at the rate that they reach in the shape at hand, and passes over the batch's codes at
the rate of one elementwise operation into new memory. How many passes each thing takes was fitted once to measured
steps (tests/experiment/test_plan.py has them).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from sleave.base.device import choose_device
from sleave.base.files import torch_dtype
from sleave.base.settings import DType
from sleave.experiment.cost import entry_flops, firing, flops_per_token, product_flops
from sleave.experiment.needs import Sizes
from sleave.language.settings import ModelShape
from sleave.recipe import Recipe

SECONDS = 0.7  # for each of the two figures
MOST = 1 << 24  # numbers in the matrix that a pass is timed on

# Passes over (batch, d_sae) numbers that a step takes beside its products.
PASSES = {"relu": 8.0, "jumprelu": 14.0, "gated": 16.0}
SPARSE_PASSES = 2.5  # to find the largest of all pre-activations
FULL_PASSES = 8.0
CHOICE_PASSES = 4.0
PENALTY_PASSES = 5.0
ADAM = 7.0  # passes over the weights
COACTIVATION = 1.2e-8  # seconds for each time two features fire together, of a choice by mutual information
WALKED = 2.5e-9  # of a penalty on chosen pairs
ENTRY_RATE = 4e9  # operations a second on rows of the weights, for each code that fires
HARVEST = 0.65  # share of a product's rate that a language model reaches


@dataclass(frozen=True)
class Rates:
    """What this machine does in a second.

    Attributes:
        flops: operations of a matrix product in the training's precision and shape.
        numbers: numbers of an elementwise operation, read and written into new memory.
    """

    flops: float
    numbers: float


def calibrate(recipe: Recipe, d_in: int) -> Rates:
    """Measure for about two seconds, each rate as the median of several; each shape once a process.

    Raises:
        SleaveError: there is no such device here.
    """
    size = Sizes.of(recipe, d_in)
    return _calibrate(size.rows, d_in, size.d_sae, recipe.training.precision, recipe.training.device)


@cache
def _calibrate(rows: int, d_in: int, d_sae: int, precision: DType, device_name: str) -> Rates:
    device = choose_device(device_name)
    d_sae = max(1, min(d_sae, MOST // rows))
    dtype = torch_dtype(precision)
    x = torch.randn(rows, d_in, device=device).to(dtype)
    weights = torch.randn(d_in, d_sae, device=device).to(dtype)
    codes = torch.randn(rows, d_sae, device=device)
    product = _median_seconds(lambda: x @ weights, device)
    elementwise = _median_seconds(lambda: torch.relu(codes), device)
    return Rates(2.0 * rows * d_in * d_sae / product, rows * d_sae / elementwise)


def _median_seconds(act: Callable[[], object], device: torch.device) -> float:
    """Of one call, once warm."""
    for _ in range(2):
        act()
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        act()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def harvest_seconds(recipe: Recipe, shape: ModelShape, tokens: int, rates: Rates) -> float:
    """How long a language model reads so many tokens."""
    return tokens * flops_per_token(recipe, shape) / (HARVEST * rates.flops)


def seconds_per_step(recipe: Recipe, d_in: int, rates: Rates) -> float:
    """How long a training step takes."""
    size = Sizes.of(recipe, d_in)
    codes = float(size.batch) * size.d_sae
    passes = codes * (SPARSE_PASSES if size.sparse else PASSES[recipe.autoencoder.kind])
    passes += ADAM * size.parameters
    seconds = product_flops(recipe, size) / rates.flops + passes / rates.numbers
    return seconds + entry_flops(recipe, size) / ENTRY_RATE + _constraint(recipe, size, rates)


def _constraint(recipe: Recipe, size: Sizes, rates: Rates) -> float:
    """What a constraint takes in a step beside its products."""
    constraint = recipe.constraint
    codes = float(size.batch) * size.d_sae
    fire = firing(size)
    coactivations = size.batch * fire * (fire - 1) / 2
    if constraint.kind == "none":
        return 0.0
    if constraint.kind == "full":
        return WALKED * coactivations if size.sparse else FULL_PASSES * codes / rates.numbers
    refresh = constraint.refresh or recipe.training.steps
    choices = (1 + constraint.compare) * constraint.window / refresh
    penalty = WALKED * coactivations + (0 if size.sparse else PENALTY_PASSES * codes / rates.numbers)
    if constraint.kind in ("selective", "gradient") and not size.sparse:
        return penalty + choices * CHOICE_PASSES * codes / rates.numbers
    return penalty + choices * COACTIVATION * coactivations
