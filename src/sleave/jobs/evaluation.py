"""Evaluating finished runs: families of metrics, each a part of results.json."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sleave.base.environment import environment
from sleave.base.errors import SleaveError, check_one_of
from sleave.base.progress import say
from sleave.jobs.families import FAMILIES, Subject
from sleave.recipe import Recipe, recipe_from
from sleave.training.run import RunDirectory

ALL = "all"
CURABLE = ("not_installed", "no_store")  # statuses that say what was missing then


def evaluate(
    run: RunDirectory | str | Path,
    store: str | None = None,
    *,
    suite: str | Sequence[str] = "heldout",
    settings: Mapping[str, Any] | None = None,
    again: bool = False,
) -> dict[str, Any]:
    """Evaluate a finished run on text that training never saw, and keep the results in its results.json.

    A part that is there already, measured with the same settings, is kept, unless it only says what was missing then,
    and that is there now. Each is written as soon as it is known.

    Args:
        run: the run, or the path of its directory.
        store: where its activation store is now, if it moved.
        suite: names of `FAMILIES`, or `all`.
        settings: nested values that replace those of `evaluation` in the run's config.toml.
        again: measure anew what results.json has.

    Raises:
        SleaveError: there is no such family, the run is unfinished, or its activations or weights are missing or
            damaged.
    """
    run = run if isinstance(run, RunDirectory) else RunDirectory(run)
    names = families_of(suite)
    config = run.config()
    if not run.finished:
        raise SleaveError(f"`{run.path}` is not finished. Run the same `sleave train` command again: it goes on.")
    overrides = {"evaluation": dict(settings or {})} | ({"harvest": {"store": store}} if store else {})
    recipe = recipe_from(config, overrides, where=f"`{run.config_file}`")
    subject = Subject(run, recipe)
    for name in names if again else unmeasured(run, names, recipe):
        family = FAMILIES[name]
        began = time.perf_counter()
        found = family.measure(subject)
        seconds = time.perf_counter() - began
        asked = family.settings(recipe.evaluation)
        run.add_results(name, {"settings": asked, "seconds": seconds, "environment": _made_with(), **found})
        if (status := found.get("status", "ok")) != "ok":
            say(f"{run.path}: {family.title}: {status}. {found.get('why', '')}")
    return run.results()


def unmeasured(run: RunDirectory, suite: str | Sequence[str], recipe: Recipe) -> tuple[str, ...]:
    """Families of a suite that a run's results do not have yet, as far as they can be measured here.

    Args:
        run: the run.
        suite: see `evaluate`.
        recipe: with the settings that they are to be measured with.

    Raises:
        SleaveError: there is no such family, or results.json is damaged.
    """
    names = families_of(suite)
    return tuple(name for name in names if not _is_there(run, name, recipe))


def _is_there(run: RunDirectory, name: str, recipe: Recipe) -> bool:
    there = run.results().get(name)
    if there is None or there.get("settings") != FAMILIES[name].settings(recipe.evaluation):
        return False
    if there.get("status") in CURABLE:
        return not FAMILIES[name].possible(recipe)
    return name != "audit" or run.audit_file.is_file()


def _made_with() -> dict[str, Any]:
    """What a part was measured with; results.json has that of the training beside it."""
    made = environment()
    return {"commit": made["commit"], **{name: made["packages"][name] for name in ("sleave", "torch")}}


def families_of(suite: str | Sequence[str]) -> tuple[str, ...]:
    """The names of families that a suite means.

    Raises:
        SleaveError: there is no such family.
    """
    names = (suite,) if isinstance(suite, str) else tuple(suite)
    for name in names:
        check_one_of("suite", name, (*FAMILIES, ALL))
    return tuple(FAMILIES) if ALL in names else tuple(dict.fromkeys(names))
