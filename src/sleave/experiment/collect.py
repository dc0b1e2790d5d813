"""The figures of an experiment's runs in one small file, from which its tables are made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sleave.base.errors import SleaveError
from sleave.base.files import read_json, write_json
from sleave.evaluation.figures import FIGURES
from sleave.evaluation.methods import value_at
from sleave.experiment.state import FILE
from sleave.jobs.runs import runs_in
from sleave.training.run import RunDirectory

SCHEMA = 1
DIGITS = 10  # that a figure keeps; fewer, and an interval would no longer be centred on it
# What `sleave.evaluation.compare` tells runs apart by, beside the figures.
KEPT = ("training.seed", "training.recipe", "training.activations", "training.d_in", "training.d_sae", "training.steps")
FINGERPRINT = "heldout.fingerprint"
SPREAD = ("groups", "intervals", "gain", "gain_intervals")  # of a part, by figure: what intervals are made of


def collect(out: str | Path, command: str = "") -> dict[str, Any]:
    """What an experiment's finished runs measured, without what only a page of its own needs.

    Each run keeps `results` in the shape of its results.json: the figures that tables show, and what their intervals
    come from, over seeds and of differences too. So whatever reads results.json (`sleave.evaluation.methods.Method`,
    `compare`) reads these, and finds the same.

    Args:
        out: the experiment's folder.
        command: what made it, to be told beside its tables.

    Returns:
        schema, title, command; commits and machines: all that runs were trained on, and commits that they were
        measured at; runs: name, method, layer, seed, settings (those that vary, by their dotted keys), results.

    Raises:
        SleaveError: there is no finished run; where there is an experiment.json, none that it says is finished.
    """
    out = Path(out)
    state = read_json(out / FILE) if (out / FILE).is_file() else None
    runs = _finished(out, state)
    if not runs:
        raise SleaveError(f"No run below `{out}` is finished. Finish the experiment: `sleave experiment` goes on.")
    machines = sorted({_machine(run) for run in runs.values()})
    commits = sorted(set[str]().union(*(_commits(run.results()) for run in runs.values())))
    return {
        "schema": SCHEMA,
        "title": str((state or {}).get("title", out.name)),
        "command": command,
        "commits": commits,
        "machines": machines,
        "runs": [_run(name, run, (state or {}).get("cells", {}).get(name, {})) for name, run in runs.items()],
    }


def write(out: str | Path, path: str | Path, command: str = "") -> Path:
    """Collect an experiment into a file, such as results/mi_ortho.json; see `collect`."""
    write_json(Path(path), collect(out, command))
    return Path(path)


def _finished(out: Path, state: Mapping[str, Any] | None) -> dict[str, RunDirectory]:
    """By name, those that an experiment's file says are trained and measured; without one, all below a folder."""
    if state is None:
        found = [run for run in runs_in(out) if run.finished]
        return {run.path.relative_to(out).as_posix() if run.path != out else out.name: run for run in found}
    cells = state.get("cells", {})
    if old := [name for name, cell in cells.items() if "settings" not in cell]:
        raise SleaveError(
            f"`{out / FILE}` is of an older version, which did not keep what varies in {old[0]}. The same "
            "`sleave experiment` command writes it anew; finished runs are reused."
        )
    return {name: RunDirectory(out / name) for name, cell in cells.items() if cell["status"] == "finished"}


def _commits(results: Mapping[str, Any]) -> set[str]:
    """At which a run was trained, and each part of its results measured."""
    each = [results, *(part for part in results.values() if isinstance(part, Mapping))]
    return {str(commit) for values in each if (commit := value_at(values, "environment.commit")) is not None}


def _machine(run: RunDirectory) -> str:
    environment = run.results().get("environment", {})
    machine = environment.get("gpu") or environment.get("processor")
    return f"{machine}, torch {value_at(environment, 'packages.torch')}"


def _run(name: str, run: RunDirectory, cell: Mapping[str, Any]) -> dict[str, Any]:
    config = run.config()
    return {
        "name": name,
        "method": name.partition("/")[0].partition(",")[0],
        "layer": config.get("layer"),
        "seed": config.get("seed"),
        "settings": cell.get("settings", {}),
        "results": _figures(run.results()),
    }


def _figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """Those that tables show, where they are in results.json; and of each part what it gives for intervals: the
    figure without each group of documents (`groups`), or its ends (`intervals`), and `settings` to be compared by."""
    kept: dict[str, Any] = {}
    for path in (*KEPT, FINGERPRINT, *(f.path for figures in FIGURES.values() for f in figures)):
        value = value_at(results, path)
        if value is None or isinstance(value, Mapping | list):
            continue
        part, _, inner = path.partition(".")
        _put(kept, path, _short(value))
        for source in SPREAD:
            if (spread := (results[part].get(source) or {}).get(inner)) is not None:
                kept[part].setdefault(source, {})[inner] = _short(spread)
    for part, values in results.items():
        if not isinstance(values, Mapping):
            continue
        if values.get("status", "ok") != "ok":
            kept.setdefault(part, {})["status"] = values["status"]
        if part in kept and part != "heldout" and "settings" in values:  # rows have a fingerprint
            kept[part]["settings"] = values["settings"]
    return kept


def _put(kept: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    for section in sections:
        kept = kept.setdefault(section, {})
    kept[key] = value


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
