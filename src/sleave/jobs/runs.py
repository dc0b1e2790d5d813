"""Finding runs, and comparing which pairs they chose."""

from __future__ import annotations

import re
from pathlib import Path

from sleave.base.errors import SleaveError
from sleave.evaluation.overlap import Overlap
from sleave.evaluation.overlap import overlap as overlap_of
from sleave.interop.reading import load
from sleave.training.run import RunDirectory


def runs_in(path: str | Path) -> list[RunDirectory]:
    """The run at a path, or all runs below it.

    Raises:
        SleaveError: there is none.
    """
    path = Path(path)
    found = (
        [path]
        if (path / "config.toml").is_file()
        else sorted((p.parent for p in path.glob("**/config.toml")), key=_natural)
    )
    if not found:
        raise SleaveError(
            f"There is no run at `{path}`: "
            + ("no config.toml there or below." if path.exists() else "it does not exist.")
            + " See `sleave train`."
        )
    return [RunDirectory(p) for p in found]


def _natural(path: Path) -> list[tuple[float, str]]:
    """Orders run5 before run10, and none_0.08 before none_0.6."""
    parts = re.split(r"(\d+(?:\.\d+)?)", str(path))
    return [(float(part), "") if n % 2 else (0.0, part) for n, part in enumerate(parts)]


def overlap(first: RunDirectory | str | Path, second: RunDirectory | str | Path) -> Overlap:
    """How far two runs agree on which pairs to push apart, their features matched by decoder direction.

    Raises:
        SleaveError: a run is unfinished or chose no pairs, or they read different widths.
    """
    runs = [r if isinstance(r, RunDirectory) else RunDirectory(r) for r in (first, second)]
    pairs = (runs[0].pairs(), runs[1].pairs())
    return overlap_of(load(runs[0].path).W_dec, load(runs[1].path).W_dec, pairs)
