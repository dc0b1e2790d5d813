"""From the file of an experiment to its runs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from sleave.base.errors import SleaveError, nearest
from sleave.experiment.settings import ExperimentSettings, GridSettings
from sleave.recipe import Recipe, load_recipe, merged, recipe_from

LONGEST = 200  # bytes of a folder's name; most file systems take 255


Variant = tuple[str, dict[str, Any], dict[str, Any]]  # a name; what it changes of the recipe; which of that varies


@dataclass(frozen=True)
class Cell:
    """One run of an experiment.

    Attributes:
        name: its folder within the experiment's: method (and what varies), layer, seed.
        recipe: everything that it needs, resolved.
        varied: the settings that its grid varies, by their dotted keys.
    """

    name: str
    recipe: Recipe
    varied: Mapping[str, Any] = field(default_factory=dict)


def cells(experiment: ExperimentSettings, folder: Path) -> tuple[Cell, ...]:
    """All runs of an experiment, each once, those of one seed after the other.

    Args:
        experiment: its file's settings.
        folder: where that file is.

    Raises:
        SleaveError: a grid names a method that is not there, two runs would have the same name, a name would be too
            long, a value that varies would come to nothing, or recipes have mistakes, all of which it lists.
    """
    path = folder / experiment.recipe
    if not path.is_file():
        raise SleaveError(
            f"The experiment's recipe `{path}` does not exist. Give its path from the experiment's folder."
        )
    base = load_recipe(path)
    found: dict[str, Cell] = {}
    mistakes: dict[str, str] = {}
    for name, changes, varied in _changes(experiment, base):
        try:
            recipe = load_recipe(path, changes)
            _check_values(recipe, varied)
        except SleaveError as error:
            mistakes.setdefault(str(error), name)
            continue
        found.setdefault(recipe.model_dump_json(), Cell(name, recipe, varied))
    if mistakes:
        raise SleaveError("\n".join(f"Run {name}: {message}" for message, name in mistakes.items()))
    _refuse_names([cell.name for cell in found.values()])
    return tuple(found.values())


def _changes(experiment: ExperimentSettings, base: Recipe) -> Iterator[Variant]:
    """Each run of each grid."""
    for grid in experiment.grid:
        layers = grid.layers or experiment.layers or base.model.layers
        for seed, layer in product(grid.seeds or experiment.seeds, layers):
            for name, changes, varied in _variants(grid, experiment):
                where = {"seed": seed, "layer": layer}
                yield f"{name}/layer_{layer:02d}/seed_{seed}", {**changes, **where}, varied


def _variants(grid: GridSettings, experiment: ExperimentSettings) -> Iterator[Variant]:
    """Each method of a grid with each combination of what varies."""
    for method in grid.methods or experiment.methods:
        if method not in experiment.methods:
            raise SleaveError(f"A grid names `{method}`, which is no method. {nearest(method, experiment.methods)}")
        for values in product(*grid.vary.values()):
            varied = dict(zip(grid.vary, values, strict=True))
            changes: dict[str, Any] = dict(experiment.methods[method])
            for key, value in varied.items():
                # A changed `kind` resets its section of the recipe, but not what is changed beside it.
                changes = merged(changes, _nested(key, value), kept={})
            name = ",".join([method, *(f"{key}={_written(value)}" for key, value in varied.items())])
            yield name, changes, varied


def _nested(key: str, value: Any) -> Mapping[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    nested: Mapping[str, Any] = value
    return nested


def _check_values(recipe: Recipe, varied: Mapping[str, Any]) -> None:
    """Make sure that a recipe has the values that its name says.

    Raises:
        SleaveError: another setting that varies replaces one.
    """
    for key, value in varied.items():
        if recipe_from(recipe.to_dict(), _nested(key, value), where=f"`{key}`") != recipe:
            raise SleaveError(
                f"`{key}` = {value!r} comes to nothing, since another key of `vary` replaces it. Vary one of the two."
            )


def _written(value: Any) -> str:
    """A value as a part of a folder's name."""
    return re.sub(r"[^\w.+-]+", "_", str(value)).strip("_")


def _refuse_names(names: Sequence[str]) -> None:
    own = "Give such a value in a method of its own."
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SleaveError(f"Several runs would be called {', '.join(twice)}. {own}")
    for folder in dict.fromkeys(name.partition("/")[0] for name in names):
        if (length := len(folder.encode())) > LONGEST:
            raise SleaveError(f"A folder's name of {length} bytes is too long (at most {LONGEST}): {folder}\n{own}")
