"""The file of an experiment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from sleave.base.errors import SleaveError
from sleave.base.files import read_toml
from sleave.base.settings import Settings, parse
from sleave.language.settings import ModelShape

Values = Annotated[tuple[Any, ...], Field(min_length=1)]
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
TAKEN = {"experiment.json", "table.md", "table.csv", "report.html", "logs"}  # by what is written about all runs
OWN_KEYS = {"seed": "seeds", "layer": "layers"}  # what a grid says in words of its own


class GridSettings(Settings):
    """One grid: every method at every layer with every seed and every combination of the settings that vary."""

    methods: tuple[str, ...] = ()
    """Which methods; all of them when empty."""
    layers: tuple[int, ...] = ()
    """Which layers; the experiment's when empty."""
    seeds: tuple[int, ...] = ()
    """Which seeds; the experiment's when empty."""
    vary: dict[str, Values] = Field(default_factory=dict)
    """Settings of the recipe by their dotted keys, each with the values that it takes in turn, such as
    vary.constraint.weight = [0.05, 0.1, 0.2]."""

    @field_validator("vary", mode="before")
    @classmethod
    def _by_dotted_keys(cls, vary: Any) -> Any:
        """TOML makes tables of dotted keys, unless they are in quotation marks."""
        return dict(_flat(vary)) if isinstance(vary, Mapping) else vary

    @field_validator("vary")
    @classmethod
    def _not_twice(cls, vary: dict[str, Any]) -> dict[str, Any]:
        for key in vary.keys() & OWN_KEYS.keys():
            raise ValueError(f"`{key}` is not varied here; give `{OWN_KEYS[key]}` of the grid")
        return vary


class ExperimentSettings(Settings):
    """An experiment: one recipe, what is changed of it, and what is measured."""

    title: str
    """What it is about, in a few words."""
    recipe: str
    """The recipe that every run changes something of: a path from the experiment's own folder."""
    methods: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """What each method changes of the recipe, by its name: [methods.full.constraint] kind = "full"."""
    layers: tuple[int, ...] = ()
    """Layers to train on; all that the recipe reads (model.layers) when empty."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Seeds of initialisation and batches: the same seed gives every method the same start and the same batches."""
    grid: Annotated[tuple[GridSettings, ...], Field(min_length=1)] = (GridSettings(),)
    """One or more grids ([[grid]]); a run that several have is made once."""
    suites: Annotated[tuple[str, ...], Field(min_length=1)] = ("heldout",)
    """What is measured of each finished run; see `sleave evaluate --help`."""
    model_shape: ModelShape | None = None
    """How large the language model is, for a plan where the model cannot be reached; otherwise its config says."""

    @field_validator("methods")
    @classmethod
    def _names_are_folders(cls, methods: dict[str, Any]) -> dict[str, Any]:
        for name in methods:
            if not NAME.fullmatch(name):
                raise ValueError(f"a method's name becomes a folder: letters, digits and _ . + - only, not {name!r}")
            if name.lower() in TAKEN:
                raise ValueError(f"{name!r} is a file of the experiment's own folder; call the method something else")
        return methods


def load_experiment(path: str | Path) -> ExperimentSettings:
    """Read the file of an experiment.

    Raises:
        SleaveError: the file is missing or not TOML; or lists all mistakes in it, each with its key path.
    """
    path = Path(path)
    if path.is_dir():
        raise SleaveError(f"`{path}` is a folder. Give one experiment in it, a TOML file.")
    return parse(ExperimentSettings, read_toml(path), where=f"The experiment `{path}`")


def _flat(vary: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in vary.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value
