"""What an experiment will take, without running it: tokens, operations, bytes on disk and in memory, and time.

Of all runs, finished or not, since a plan looks only at recipes; a harvest that is there takes nothing.
All of it follows from the recipes and the shape of the language model. Time is an estimate from rates measured for two
seconds on the machine at hand, meant to be within a factor of 1.5, and is that of one run after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Column, Table

from sleave.base.errors import SleaveError
from sleave.experiment.cost import harvest_cost, training_cost
from sleave.experiment.grid import Cell
from sleave.experiment.needs import check_layers, memory, stored
from sleave.experiment.rates import Rates, calibrate, calibrate_model, harvest_seconds, seconds_per_step
from sleave.language.settings import ModelShape
from sleave.language.shape import model_shape
from sleave.recipe import Recipe

WRITE_IT = """
Or write its shape into the experiment's file, and the model itself is not needed for a plan:

  [model_shape]
  d_in = 2304                     # width of the residual stream
  num_layers = 26                 # blocks
  block_parameters = 77_865_984   # parameters of one block
  vocabulary = 256_000            # tokens"""
ESTIMATE = (
    "Memory: of training, within about a third. Time: an estimate from rates measured just now, meant to be within a "
    "factor of 1.5, of one run after the other, without evaluation. Runs that are finished count like all others."
)


@dataclass(frozen=True)
class HarvestPlan:
    """One pass of a language model over the text, for every run on its store.

    Attributes:
        store: its folder.
        there: whether it is finished already, so that nothing is harvested.
        layers: that are kept.
        tokens: that are read.
        flops: operations.
        disk: bytes of the store.
        seconds: how long it takes, 0 if it is there.
    """

    store: str
    there: bool
    layers: tuple[int, ...]
    tokens: int
    flops: float
    disk: int
    seconds: float


@dataclass(frozen=True)
class RunPlan:
    """One run.

    Attributes:
        name: of its cell.
        tokens: training rows, repeats counted.
        tokens_harvested: that the language model reads while it trains; 0 on a store.
        flops: operations, with those of the language model if it runs.
        disk: bytes of the run directory.
        memory: bytes at the peak.
        seconds: how long it takes.
    """

    name: str
    tokens: int
    tokens_harvested: int
    flops: float
    disk: int
    memory: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What an experiment will take.

    Attributes:
        harvests: each store that it reads.
        runs: each run, in order.
    """

    harvests: tuple[HarvestPlan, ...]
    runs: tuple[RunPlan, ...]

    @property
    def tokens_harvested(self) -> int:
        """By harvests that are still to be made, and by all runs without a store."""
        return sum(h.tokens for h in self.harvests if not h.there) + sum(r.tokens_harvested for r in self.runs)

    @property
    def tokens(self) -> int:
        """Trained on, repeats counted."""
        return sum(r.tokens for r in self.runs)

    @property
    def flops(self) -> float:
        """Operations of harvests that are still to be made, and of all runs."""
        return sum(h.flops for h in self.harvests if not h.there) + sum(r.flops for r in self.runs)

    @property
    def disk(self) -> int:
        """Bytes, those of stores that are there included."""
        return sum(h.disk for h in self.harvests) + sum(r.disk for r in self.runs)

    @property
    def memory(self) -> int:
        """Bytes that the largest run takes."""
        return max(r.memory for r in self.runs)

    @property
    def seconds(self) -> float:
        """Of harvests that are still to be made and of all runs, one after the other."""
        return sum(h.seconds for h in self.harvests) + sum(r.seconds for r in self.runs)


def plan(cells: Sequence[Cell], shape: ModelShape | None = None, rates: Rates | None = None) -> Plan:
    """What some runs will take.

    Args:
        cells: the runs, each of one layer.
        shape: of their language model; by default what each one's config says.
        rates: of the machine; by default measured now, for two seconds for each shape of autoencoder.

    Raises:
        SleaveError: a model's shape is not given, and its config cannot be reached; it has fewer layers than are read;
            or there is no such device here.
    """
    shapes: dict[tuple[str, str | None], ModelShape] = {}
    harvests: dict[str, HarvestPlan] = {}
    runs = []
    for cell in cells:
        model = (cell.recipe.model.name, cell.recipe.model.revision)
        if model not in shapes:  # its config is read once
            shapes[model] = shape or _shape(cell.recipe)
        found = shapes[model]
        check_layers(cell.recipe, found)
        if (store := cell.recipe.harvest.store) is not None and store not in harvests:
            harvests[store] = _harvest(cell.recipe, found, rates)
        runs.append(_run(cell, found, rates))
    return Plan(tuple(harvests.values()), tuple(runs))


def _shape(recipe: Recipe) -> ModelShape:
    try:
        return model_shape(recipe.model)
    except SleaveError as error:
        raise SleaveError(f"{error}{WRITE_IT}") from error


def _harvest(recipe: Recipe, shape: ModelShape, rates: Rates | None) -> HarvestPlan:
    cost = harvest_cost(recipe, shape)
    there = stored(recipe) is not None
    seconds = 0.0
    if not there:
        seconds = harvest_seconds(
            recipe, shape, cost.tokens, rates.flops if rates else calibrate_model(recipe, shape.d_in)
        )
    where = str(recipe.harvest.store)
    return HarvestPlan(where, there, recipe.model.layers, cost.tokens, cost.flops, cost.disk, seconds)


def _run(cell: Cell, shape: ModelShape, rates: Rates | None) -> RunPlan:
    recipe = cell.recipe
    cost = training_cost(recipe, shape.d_in)
    seconds = recipe.training.steps * seconds_per_step(recipe, shape.d_in, rates or calibrate(recipe, shape.d_in))
    tokens, flops = 0, cost.flops
    if recipe.harvest.store is None:
        if recipe.layer is not None:  # the model is cut off there, whatever else the recipe names
            recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"layers": (recipe.layer,)})})
        read = harvest_cost(recipe, shape)
        tokens, flops = read.tokens, flops + read.flops
        seconds += harvest_seconds(recipe, shape, tokens, rates.flops if rates else calibrate_model(recipe, shape.d_in))
    return RunPlan(cell.name, cost.tokens, tokens, flops, cost.disk, memory(recipe, shape).peak, seconds)


def table(plan: Plan) -> Table:
    """A plan as a table: harvests, then runs, those that differ only in their seed as one row; then all."""
    heads = ("tokens", "FLOPs", "disk", "memory", "time")
    shown = Table(
        Column("", overflow="fold"),
        Column("runs", justify="right"),
        *(Column(head, justify="right") for head in heads),
        title="The plan: nothing was run",
        caption=ESTIMATE,
        caption_justify="left",
    )
    for h in plan.harvests:
        state = " (there already)" if h.there else ""
        shown.add_row(f"harvest {h.store}{state}", "", *_row(h.tokens, h.flops, h.disk, None, h.seconds))
    for name, runs in _methods(plan.runs).items():
        shown.add_row(name, str(len(runs)), *_together(runs))
    shown.add_section()
    shown.add_row("all", str(len(plan.runs)), *_row(plan.tokens, plan.flops, plan.disk, plan.memory, plan.seconds))
    return shown


def _methods(runs: Iterable[RunPlan]) -> dict[str, list[RunPlan]]:
    """Runs by their name without the seed."""
    found: dict[str, list[RunPlan]] = {}
    for run in runs:
        found.setdefault(run.name.rpartition("/seed_")[0] or run.name, []).append(run)
    return found


def _together(runs: Sequence[RunPlan]) -> list[str]:
    tokens, flops, disk, seconds = (
        sum(getattr(r, what) for r in runs) for what in ("tokens", "flops", "disk", "seconds")
    )
    return _row(tokens, flops, disk, max(r.memory for r in runs), seconds)


def _row(tokens: float, flops: float, disk: float, memory: float | None, seconds: float) -> list[str]:
    held = "" if memory is None else f"{_amount(memory)}B"
    return [_amount(tokens), _amount(flops), f"{_amount(disk)}B", held, _duration(seconds)]


def _amount(value: float) -> str:
    """Three digits and a prefix: 1.23 M."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if value < 999.5 or prefix == "E":
            break
        value /= 1000
    return f"{value:.3g} {prefix}"


def _duration(seconds: float) -> str:
    """In the unit that suits it: 3.2 h."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.{1 if seconds < 100 * size else 0}f} {unit}"
    return f"{seconds:.3g} s"
