"""From the file of an experiment to its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from sleave.base.errors import SleaveError, nearest
from sleave.experiment.settings import ExperimentSettings, GridSettings
from sleave.recipe import Recipe, load_recipe, merged


@dataclass(frozen=True)
class Cell:
    """One run of an experiment.

    Attributes:
        name: its folder within the experiment's: method (and what varies), layer, seed.
        recipe: everything that it needs, resolved.
    """

    name: str
    recipe: Recipe


def cells(experiment: ExperimentSettings, folder: Path) -> tuple[Cell, ...]:
    """All runs of an experiment, each once, those of one seed after the other.

    Args:
        experiment: its file's settings.
        folder: where that file is.

    Raises:
        SleaveError: a grid names a method that is not there, or a run's recipe has mistakes.
    """
    path = folder / experiment.recipe
    base = load_recipe(path)
    found: dict[str, Cell] = {}
    for grid in experiment.grid:
        for seed, layer in product(grid.seeds or experiment.seeds, _layers(grid, experiment, base)):
            for name, changes in _variants(grid, experiment):
                where = {"seed": seed, "layer": layer}
                cell = Cell(f"{name}/layer_{layer:02d}/seed_{seed}", load_recipe(path, merged(changes, where)))
                found.setdefault(cell.recipe.model_dump_json(), cell)
    return tuple(found.values())


def _layers(grid: GridSettings, experiment: ExperimentSettings, base: Recipe) -> Sequence[int]:
    return grid.layers or experiment.layers or base.model.layers


def _variants(grid: GridSettings, experiment: ExperimentSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each method of a grid with each combination of what varies: a name, and what it changes of the recipe."""
    for method in grid.methods or experiment.methods:
        if method not in experiment.methods:
            raise SleaveError(f"A grid names `{method}`, which is no method. {nearest(method, experiment.methods)}")
        for values in product(*grid.vary.values()):
            changes: dict[str, Any] = dict(experiment.methods[method])
            for key, value in zip(grid.vary, values, strict=True):
                changes = merged(changes, _nested(key, value))
            varied = [f"{key}={value}" for key, value in zip(grid.vary, values, strict=True)]
            yield ",".join([method, *varied]), changes


def _nested(key: str, value: Any) -> Mapping[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    nested: Mapping[str, Any] = value
    return nested
