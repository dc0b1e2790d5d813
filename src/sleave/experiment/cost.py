"""What a run asks of a machine: tokens, operations, bytes on disk."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sleave.activations.store import TOKEN_COLUMNS
from sleave.base.files import torch_dtype
from sleave.experiment.needs import FLOAT, Sizes, model_dtype, training_dtype
from sleave.language.live import FIRST_ROWS
from sleave.language.settings import ModelShape
from sleave.recipe import Recipe

REMEMBERED = 8  # bytes of a code in the window of a checkpoint: value and feature
LOGGED = 500  # bytes that a step leaves in metrics.jsonl
FIRING = 0.02  # share of dense codes that are not zero when training ends


@dataclass(frozen=True)
class HarvestCost:
    """What reading text with a language model takes.

    Attributes:
        tokens: that are read, of both sides of the split.
        flops: operations of the blocks up to the last hooked layer, attention included, embeddings not.
        disk: bytes of the store, 0 without one.
    """

    tokens: int
    flops: float
    disk: int


@dataclass(frozen=True)
class TrainingCost:
    """What one training run takes.

    Attributes:
        tokens: training rows, repeats counted.
        flops: operations of its matrix products, those of the constraint and of what fires alone included.
        disk: bytes of the run directory.
    """

    tokens: int
    flops: float
    disk: int


def harvest_cost(recipe: Recipe, shape: ModelShape) -> HarvestCost:
    """Of the harvest of a recipe, into its store or, without one, into the rolling buffer while one run trains."""
    harvest = recipe.harvest
    if harvest.store is None:
        tokens = FIRST_ROWS + _buffer_rows(recipe) + _drawn(recipe)
        return HarvestCost(tokens, tokens * flops_per_token(recipe, shape), 0)
    tokens = round(harvest.max_tokens / (1 - harvest.heldout_fraction))
    row = len(recipe.model.layers) * shape.d_in * torch_dtype(harvest.dtype).itemsize + FLOAT * len(TOKEN_COLUMNS)
    return HarvestCost(tokens, tokens * flops_per_token(recipe, shape), tokens * row)


def flops_per_token(recipe: Recipe, shape: ModelShape) -> float:
    """Two for each parameter of the blocks that run, and two products of attention over half a context on average."""
    attention = 2 * 2 * shape.d_in * recipe.harvest.context_length / 2
    return (recipe.model.layers[-1] + 1) * (2 * shape.block_parameters + attention)


def training_cost(recipe: Recipe, d_in: int) -> TrainingCost:
    """Of the training of a recipe on activations of some width, of one layer."""
    size = Sizes.of(recipe, d_in)
    steps = recipe.training.steps
    return TrainingCost(steps * size.batch, steps * (step_flops(recipe, size)), _run_disk(recipe, size))


def step_flops(recipe: Recipe, size: Sizes) -> float:
    """Operations of a step: see `product_flops`, `square_flops` and `entry_flops`."""
    return product_flops(recipe, size) + square_flops(recipe, size) + entry_flops(recipe, size)


def product_flops(recipe: Recipe, size: Sizes) -> float:
    """Operations of a step's dense products with the weights.

    Five of batch x d_in x d_sae: the encoder, the decoder, and the gradients of both weights and of the codes. Where
    only what fires is kept, the first alone; where a fused step takes whichever is less, one and a half: five when
    training begins, one soon after. Codes computed again are one or two more; an auxiliary reconstruction
    (of `gated`) is two more.
    """
    one = 2.0 * size.batch * size.d_in * size.d_sae
    products = 1.0 if size.sparse else 1.5 if fused(recipe) else 5.0 + 2.0 * (recipe.autoencoder.kind == "gated")
    if recipe.training.gradient_checkpointing:
        products += 1.0 if size.sparse else 2.0
    return one * products + _between_directions(recipe, size)


def _between_directions(recipe: Recipe, size: Sizes) -> float:
    """All cosines of decoder directions within chunks, for the constraint that looks at those."""
    if recipe.constraint.kind != "decoder":
        return 0.0
    return 2.0 * size.d_sae * min(recipe.constraint.chunk, size.d_sae) * size.d_in


def square_flops(recipe: Recipe, size: Sizes) -> float:
    """Operations of the products of all columns of the codes that a constraint takes in a step, on average.

    Selective choice of pairs multiplies half the matrix of correlations, full orthogonality the whole of it, and once
    more for its gradient; less where co-activations are few, and are walked.
    """
    constraint = recipe.constraint
    square = 2.0 * size.batch * size.d_sae**2
    if size.sparse:
        return 0.0
    if constraint.kind == "full":
        return 2.0 * square
    if constraint.kind in ("selective", "gradient"):
        choices = 1 / constraint.refresh if constraint.refresh else 1 / recipe.training.steps
        of_gradients = size.d_in / size.d_sae if constraint.kind == "gradient" else 0.0
        return (0.5 + of_gradients) * square * choices * constraint.window * (1 + constraint.compare)
    return 0.0


def entry_flops(recipe: Recipe, size: Sizes) -> float:
    """Operations of a step on what fires alone: four products with rows of the weights for each code that fires."""
    few = size.firing if size.sparse else FIRING * size.d_sae if fused(recipe) else 0.0
    return 2.0 * 4 * size.batch * few * size.d_in


def fused(recipe: Recipe) -> bool:
    """Whether a ReLU autoencoder's step is one of `training.fused`."""
    training, autoencoder = recipe.training, recipe.autoencoder
    plain = training.gradient_checkpointing or training.compile or training_dtype(recipe) == torch.float16
    other = autoencoder.kind != "relu" or autoencoder.batch_norm or autoencoder.dropout
    on_gpu = training.device.startswith("cuda") or (training.device == "auto" and torch.cuda.is_available())
    return training.fused and not (plain or other or on_gpu or training.shards > 1)


def firing(recipe: Recipe, size: Sizes) -> float:
    """How many features fire on a row over a training.

    Half way between its beginning and where it mostly ends; where that is soon, as in a fused step, where it ends.
    """
    if size.sparse:
        return size.firing
    ends = FIRING * size.d_sae
    return ends if fused(recipe) else (size.firing + ends) / 2


def _drawn(recipe: Recipe) -> int:
    return recipe.training.steps * recipe.buffer.batch_contexts * recipe.harvest.context_length


def _buffer_rows(recipe: Recipe) -> int:
    return recipe.buffer.buffer_contexts * recipe.harvest.context_length


def _run_disk(recipe: Recipe, size: Sizes) -> int:
    """The autoencoder, a checkpoint (weights, two moments, the buffer's entries, pairs, the window), and metrics."""
    if recipe.harvest.store is None:
        buffer = _buffer_rows(recipe) * size.d_in * model_dtype(recipe).itemsize
    else:
        buffer = 8 * min(_buffer_rows(recipe), recipe.harvest.max_tokens)
    window = getattr(recipe.constraint, "window", 1)
    pairs = 2 * 20 * min(getattr(recipe.constraint, "top", 0.0) * size.pairs, size.together(window))
    remembered = REMEMBERED * size.batch * size.firing * (window if window > 1 else 0)
    return round((1 + 3) * FLOAT * size.parameters + buffer + pairs + remembered) + LOGGED * recipe.training.steps
