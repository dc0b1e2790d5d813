"""What run directories hold for the page of several runs; only files are read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sleave.auditing.results import Audit
from sleave.base.errors import SleaveError
from sleave.report.plot import Point
from sleave.training.run import RunDirectory

POINTS = 200  # of a curve, at most


@dataclass(frozen=True, eq=False)
class Run:
    """A run as the page shows it.

    Attributes:
        name: the shortest path that tells it from the others.
        path: where it is.
        config: its settings.
        results: what results.json holds.
        curves: by metric, (step, value), averaged over a few steps each.
        audit: what audit.json holds, if it is there.
        remarks: what is missing, and how to get it.
    """

    name: str
    path: str
    config: Mapping[str, Any]
    results: Mapping[str, Any]
    curves: Mapping[str, Sequence[Point]]
    audit: Audit | None
    remarks: tuple[str, ...]

    def number(self, path: str) -> float | None:
        """A figure of results.json, such as `heldout.codes.l0`; None if it is not there or is no number."""
        return as_number(find(self.results, path))

    def setting(self, path: str) -> Any:
        """A setting of config.toml, such as `autoencoder.d_sae`; None if it is not there."""
        return find(self.config, path)


def find(values: Any, path: str) -> Any:
    """What is at a dotted path of nested values; None if nothing is."""
    for key in path.split("."):
        if not isinstance(values, Mapping):
            return None
        values = values.get(key)
    return values


def as_number(value: Any) -> float | None:
    """A finite number, or None."""
    fine = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if fine else None


def read_runs(runs: Sequence[RunDirectory]) -> list[Run]:
    """Read runs; one that is given twice is read once.

    Raises:
        SleaveError: there are none, or a config.toml or results.json is damaged.
    """
    once = list({run.path.resolve(): run for run in runs}.values())
    if not once:
        raise SleaveError("No runs were given. Give run directories, or folders of them.")
    places = [run.path.resolve() for run in once]
    shared = os.path.commonpath([place.parent for place in places])
    return [_read(run, os.path.relpath(place, shared)) for run, place in zip(once, places, strict=True)]


def _read(run: RunDirectory, name: str) -> Run:
    results = run.results()
    audit, remarks = _audit(run)
    if "training" not in results:
        remarks.insert(0, "Its training is not finished: the same `sleave train` command goes on.")
    elif "heldout" not in results:
        remarks.insert(0, f"Held-out figures are not measured: sleave evaluate {run.path}")
    for part, found in results.items():
        if (status := find(found, "status")) not in (None, "ok"):
            remarks.append(f"{part}: {status}. {find(found, 'why') or ''}".rstrip())
    metrics: dict[str, list[Point]] = {}
    try:
        metrics = _curves(run.metrics())
    except ValueError:
        remarks.append(f"`{run.metrics_file.name}` is damaged; its curves are left out.")
    return Run(name, str(run.path), run.config(), results, metrics, audit, tuple(remarks))


def _audit(run: RunDirectory) -> tuple[Audit | None, list[str]]:
    command = f"sleave evaluate {run.path} --suite audit"
    if not run.audit_file.is_file():
        return None, [f"Pairs are not measured: {command}"]
    try:
        return Audit.from_dict(_strict_object(run.audit_file)), []
    except ValueError:
        return None, [f"`{run.audit_file.name}` is damaged or of another version: {command} --again"]


def _strict_object(path: Path) -> dict[str, Any]:
    """A JSON object without NaN and infinity, which no page could hold."""

    def refuse(name: str) -> float:
        raise ValueError(name)

    values = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    if not isinstance(values, dict):
        raise ValueError(type(values).__name__)
    return values


def _curves(metrics: Iterable[Mapping[str, Any]]) -> dict[str, list[Point]]:
    lines: dict[str, list[Point]] = {}
    for line in metrics:
        for name, value in line.items():
            step, figure = as_number(line.get("step")), as_number(value)
            if name != "step" and step is not None and figure is not None:
                lines.setdefault(name, []).append((step, figure))
    return {name: thinned(points) for name, points in lines.items()}


def thinned(points: Sequence[Point], most: int = POINTS) -> list[Point]:
    """At most so many points: means of as many neighbours each."""
    size = -(-len(points) // most)
    groups = [points[n : n + size] for n in range(0, len(points), max(1, size))]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
