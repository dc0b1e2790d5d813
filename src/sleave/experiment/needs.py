"""How much memory a run will take, from its recipe alone, and where it computes.

What is counted of training is what the process holds at once, in the worst of three moments: when the autoencoder is
initialised, in the middle of a step, and while a checkpoint is written. The numbers of bytes for each code, entry and
pair are what training was seen to take (tests/experiment/test_plan.py holds them against real runs). What measuring
takes is a cruder estimate.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import expm1
from pathlib import Path

import torch

from sleave.activations.manifest import MANIFEST, Manifest
from sleave.autoencoder.initialisation import NUM_SAMPLES
from sleave.autoencoder.settings import MatryoshkaSettings, TopKSettings
from sleave.base.device import choose_device, choose_dtype
from sleave.base.errors import SleaveError
from sleave.base.files import torch_dtype
from sleave.codes.largest import rows_at_once
from sleave.jobs.evaluation import families_of
from sleave.language.losses import POSITIONS
from sleave.language.settings import ModelShape
from sleave.language.shape import model_shape
from sleave.penalties.decoder import TILE
from sleave.penalties.pairwise import COLUMNS
from sleave.recipe import Recipe

BASE = 450_000_000  # Python with torch and numba, kernels loaded
FLOAT = 4

# Bytes for each of the batch * d_sae codes of an architecture that holds them densely, gradients included.
DENSE = {"relu": 20.0, "jumprelu": 36.0, "gated": 40.0}
HALF = 2 / 3  # share of them where codes are computed again in the backward pass
CONSTRAINED = 12.0  # more of them, of a constraint on dense codes: scaled columns, and the constraint's gradient
PRE_ACTS = 10.0  # bytes for each pre-activation held at once, where only what fires is kept
ENTRY = 80.0  # for each code that fires: value, gradient, row, feature, both orders
CORRELATED = 40.0  # for each pair that fires together, while its correlation is computed
INFORMED = 96.0  # while its mutual information is
CHOSEN = 150.0  # for each chosen pair: both of its features' lists of neighbours

MEASURED = 400_000_000  # bytes that measuring held-out rows takes, however many features and rows there are
MATRICES = 8  # of float32 and d_sae x d_sae, that it holds at once
LOGITS = 6  # times float32 logits of some positions: what splicing in holds, the most of what reads the language model
OF_MODEL = frozenset({"fidelity", "probing", "absorption", "unlearning"})  # suites that load it


@dataclass(frozen=True)
class Memory:
    """Bytes of memory.

    Attributes:
        own: what the process alone holds.
        mapped: rows of the activation store that are mapped into it. Runs on one store share them, and the system
            takes them back when it needs the memory; they count in the peak that a run reports.
    """

    own: int
    mapped: int

    @property
    def peak(self) -> int:
        """Both together."""
        return self.own + self.mapped


def memory(recipe: Recipe, shape: ModelShape | None = None) -> Memory:
    """What one training run of a recipe holds at its peak: an estimate, within about a third.

    Args:
        recipe: of one run, or of several layers trained one after the other.
        shape: of the language model; without it, its activation store's if that is there, or its config's.

    Raises:
        SleaveError: nothing says how wide the activations are.
    """
    there = stored(recipe)
    if shape is None and (there is None or recipe.harvest.store is None):
        shape = model_shape(recipe.model)
    d_in = there.d_in if there is not None else shape.d_in if shape is not None else 0
    size = Sizes.of(recipe, d_in)
    moments = (_beginning(size), _step(recipe, size), _checkpoint(recipe, size))
    own = BASE + 4 * FLOAT * size.parameters + max(moments)
    if recipe.harvest.store is None:
        assert shape is not None
        return Memory(round(own + _language_model(recipe, shape) + _live_buffer(recipe, size)), 0)
    rows = recipe.harvest.max_tokens
    if there is not None:
        rows = sum(chunk.rows["train"] for chunk in there.chunks)
    buffer = 2 * 8 * min(rows, recipe.buffer.buffer_contexts * recipe.harvest.context_length)
    item = torch_dtype(there.dtype if there is not None else recipe.harvest.dtype).itemsize
    # One row brings its neighbours on the disk with it: sooner or later all rows are mapped.
    return Memory(round(own + buffer), rows * d_in * item)


def task_memory(recipe: Recipe, suites: Sequence[str], shape: ModelShape | None = None) -> Memory:
    """What a process takes that trains a recipe's run and measures it, at the worse of the two: an estimate.

    Args:
        recipe: of one run.
        suites: what is measured; see `jobs.evaluate`.
        shape: of the language model; by default its config's, if a suite needs it.

    Raises:
        SleaveError: there is no such suite, or nothing says how large the language model or the activations are.
    """
    families = families_of(suites)
    if shape is None and not OF_MODEL.isdisjoint(families):
        shape = model_shape(recipe.model)
    training = memory(recipe, shape)
    d_sae = recipe.autoencoder.d_sae
    measuring = BASE + MEASURED + FLOAT * d_sae * (MATRICES * d_sae + recipe.evaluation.max_rows)
    if shape is not None and not OF_MODEL.isdisjoint(families):
        reading = BASE + _language_model(recipe, shape) + FLOAT * LOGITS * POSITIONS * shape.vocabulary
        measuring = max(measuring, round(reading))
    return Memory(max(training.own, measuring), training.mapped)


def devices(recipe: Recipe, suites: Sequence[str]) -> frozenset[str]:
    """The settings of the devices that training a run and measuring it compute on.

    Raises:
        SleaveError: there is no such suite.
    """
    reads = recipe.harvest.store is None or not OF_MODEL.isdisjoint(families_of(suites))
    return frozenset({recipe.training.device} | ({recipe.model.device} if reads else set()))


def stored(recipe: Recipe) -> Manifest | None:
    """What the recipe's store says of itself, if it is there and whole."""
    store = recipe.harvest.store
    if store is None or not (Path(store) / MANIFEST).is_file():
        return None
    manifest = Manifest.read(Path(store))
    return manifest if manifest.complete else None


@dataclass(frozen=True)
class Sizes:
    """The numbers that everything follows from.

    Attributes:
        batch: rows of a batch.
        rows: rows that are in memory at once, a part of a batch.
        d_in, d_sae: widths.
        firing: how many features fire on a row, at most: when training begins.
        sparse: whether only what fires is kept.
    """

    batch: int
    rows: int
    d_in: int
    d_sae: int
    firing: float
    sparse: bool

    @classmethod
    def of(cls, recipe: Recipe, d_in: int) -> Sizes:
        """Those of a recipe on activations of some width."""
        autoencoder = recipe.autoencoder
        batch = recipe.buffer.batch_contexts * recipe.harvest.context_length
        sparse = isinstance(autoencoder, TopKSettings)
        if isinstance(autoencoder, TopKSettings):
            firing = float(autoencoder.k)
        else:
            firing = autoencoder.d_sae * (autoencoder.positive_rate if autoencoder.initialisation == "data" else 0.5)
        rows = -(-batch // recipe.training.accumulation)
        return cls(batch, rows, d_in, autoencoder.d_sae, firing, sparse)

    @property
    def parameters(self) -> int:
        """Numbers in encoder and decoder."""
        return 2 * self.d_in * self.d_sae

    @property
    def codes(self) -> float:
        """Numbers of a dense matrix of codes."""
        return float(self.rows) * self.d_sae

    @property
    def entries(self) -> float:
        """Codes that fire."""
        return self.rows * self.firing

    @property
    def pairs(self) -> float:
        """P, all pairs of features."""
        return self.d_sae * (self.d_sae - 1) / 2

    def together(self, batches: int = 1) -> float:
        """How many pairs fire together in some batches, if features fired independently."""
        coactivations = batches * self.rows * self.firing**2 / 2
        return self.pairs * -expm1(-coactivations / self.pairs)


def _beginning(size: Sizes) -> float:
    """Initialisation by data: the strength of every feature on every row of a sample, and copies of the sample."""
    sample = max(NUM_SAMPLES, size.d_sae)
    return FLOAT * sample * (1.1 * size.d_sae + 6 * size.d_in)


def training_dtype(recipe: Recipe) -> torch.dtype:
    """Of a training step's products."""
    return _dtype(recipe.training.precision, recipe.training.device)


def model_dtype(recipe: Recipe) -> torch.dtype:
    """Of what the language model computes."""
    return _dtype(recipe.model.dtype, recipe.model.device)


def _dtype(name: str, device: str) -> torch.dtype:
    gpu = re.fullmatch(r"cuda(:\d+)?", device)  # a plan may be for a device that is not here
    return choose_dtype(name, torch.device(device) if gpu else choose_device(device))


def _step(recipe: Recipe, size: Sizes) -> float:
    half = training_dtype(recipe) != torch.float32
    rows = FLOAT * size.d_in * (3 * size.batch + 4 * size.rows)
    copies = 2 * size.parameters * half + FLOAT * size.parameters / 2  # autocast's; of the decoder when it is scaled
    if size.sparse:
        levels = len(recipe.autoencoder.levels) if isinstance(recipe.autoencoder, MatryoshkaSettings) else 1
        held = PRE_ACTS * min(size.rows, rows_at_once(size.d_sae)) * size.d_sae + ENTRY * levels * size.entries
        held += ENTRY * size.rows * min(size.d_in / 2, size.d_sae / 4) / 2  # AuxK, of the features that die
    else:
        held = DENSE[recipe.autoencoder.kind] * size.codes * (1 if half else 1.2)
        held *= HALF if recipe.training.gradient_checkpointing else 1
    return rows + copies + held + _constraint(recipe, size)


def _constraint(recipe: Recipe, size: Sizes) -> float:
    constraint = recipe.constraint
    if constraint.kind == "none":
        return 0.0
    if constraint.kind == "decoder":
        return FLOAT * (size.parameters + 2.0 * TILE * min(constraint.chunk, size.d_sae))
    dense = 0.0 if size.sparse else CONSTRAINED * size.codes
    window = getattr(constraint, "window", 1)
    top = getattr(constraint, "top", 0.0)
    if constraint.kind == "full":
        if size.sparse:
            return CORRELATED * size.together()
        return dense + 10.0 * min(COLUMNS, size.d_sae) * size.d_sae
    if constraint.kind == "gradient":  # of every code, whatever fires
        gradients = FLOAT * size.codes * (3 + 5 * (window - 1))
        return dense + gradients + CHOSEN * top * size.pairs
    listed = (INFORMED if constraint.kind in ("mi", "informed", "information") else CORRELATED) * size.together(window)
    remembered = ENTRY * size.entries * (window if window > 1 else 0)
    return dense + listed + remembered + CHOSEN * min(top * size.pairs, size.together(window))


def _checkpoint(recipe: Recipe, size: Sizes) -> float:
    """Copies of what is not in the file's order: the encoder and its two moments."""
    window = getattr(recipe.constraint, "window", 1)
    return FLOAT * 1.5 * size.parameters + ENTRY * size.entries * (window - 1)


def _language_model(recipe: Recipe, shape: ModelShape) -> float:
    """The whole model, before it is cut off, and what it computes of a batch."""
    item = model_dtype(recipe).itemsize
    weights = shape.num_layers * shape.block_parameters + shape.vocabulary * shape.d_in
    return item * (1.2 * weights + 40.0 * recipe.harvest.batch_tokens * shape.d_in)


def _live_buffer(recipe: Recipe, size: Sizes) -> float:
    """The rows of the rolling buffer, and the copy of them that a checkpoint takes."""
    buffer = recipe.buffer
    contexts = 2.0 * buffer.buffer_contexts
    if recipe.training.device != recipe.model.device:  # the next ones are read ahead, and put together from parts
        contexts += 2.0 * buffer.refresh_batches * buffer.batch_contexts
    return model_dtype(recipe).itemsize * contexts * recipe.harvest.context_length * size.d_in


def check_layers(recipe: Recipe, shape: ModelShape) -> None:
    """Refuse layers that the model has not.

    Raises:
        SleaveError: there is one.
    """
    if recipe.model.layers[-1] >= shape.num_layers:
        raise SleaveError(
            f"`model.layers` (= {list(recipe.model.layers)}) must be below {shape.num_layers}, the number of layers of "
            f"{recipe.model.name} (`model_shape.num_layers`)."
        )
