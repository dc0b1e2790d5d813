"""From the file of an experiment to its runs."""

from __future__ import annotations

import re
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
        SleaveError: a grid names a method that is not there, two runs would have the same name, or recipes have
            mistakes, all of which it lists.
    """
    path = folder / experiment.recipe
    if not path.is_file():
        raise SleaveError(
            f"The experiment's recipe `{path}` does not exist. Give its path from the experiment's folder."
        )
    base = load_recipe(path)
    found: dict[str, Cell] = {}
    mistakes: dict[str, str] = {}
    for name, changes in _changes(experiment, base):
        try:
            recipe = load_recipe(path, changes)
        except SleaveError as error:
            mistakes.setdefault(str(error), name)
            continue
        found.setdefault(recipe.model_dump_json(), Cell(name, recipe))
    if mistakes:
        raise SleaveError("\n".join(f"Run {name}: {message}" for message, name in mistakes.items()))
    _refuse_same_names([cell.name for cell in found.values()])
    return tuple(found.values())


def _changes(experiment: ExperimentSettings, base: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each run of each grid: its name, and what it changes of the recipe."""
    for grid in experiment.grid:
        layers = grid.layers or experiment.layers or base.model.layers
        for seed, layer in product(grid.seeds or experiment.seeds, layers):
            for name, changes in _variants(grid, experiment):
                where = {"seed": seed, "layer": layer}
                yield f"{name}/layer_{layer:02d}/seed_{seed}", merged(changes, where)


def _variants(grid: GridSettings, experiment: ExperimentSettings) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each method of a grid with each combination of what varies: a name, and what it changes of the recipe."""
    for method in grid.methods or experiment.methods:
        if method not in experiment.methods:
            raise SleaveError(f"A grid names `{method}`, which is no method. {nearest(method, experiment.methods)}")
        for values in product(*grid.vary.values()):
            changes: dict[str, Any] = dict(experiment.methods[method])
            for key, value in zip(grid.vary, values, strict=True):
                changes = merged(changes, _nested(key, value))
            varied = [f"{key}={_written(value)}" for key, value in zip(grid.vary, values, strict=True)]
            yield ",".join([method, *varied]), changes


def _nested(key: str, value: Any) -> Mapping[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    nested: Mapping[str, Any] = value
    return nested


def _written(value: Any) -> str:
    """A value as a part of a folder's name."""
    return re.sub(r"[^\w.+-]+", "_", str(value)).strip("_")


def _refuse_same_names(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SleaveError(f"Several runs would be called {', '.join(twice)}. Give such a value in a method of its own.")
