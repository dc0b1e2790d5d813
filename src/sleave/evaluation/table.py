"""Runs side by side: on screen, and as CSV or Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from sleave.base.errors import SleaveError
from sleave.base.files import write_text

# Heading, where the number is in results.json, how it is written.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("MSE", "evaluation.scaled.mse", ".1f"),
    ("FVU", "evaluation.scaled.fvu", ".4f"),
    ("FVU raw", "evaluation.raw.fvu", ".4f"),
    ("L0", "evaluation.codes.l0", ".1f"),
    ("L1", "evaluation.codes.l1", ".1f"),
    ("peak |C|", "evaluation.correlation.peak_cosine", ".3f"),
    ("peak |C| (10+)", "evaluation.correlation.peak_cosine_often", ".3f"),
    ("99.9% |C|", "evaluation.correlation.p999_cosine", ".4f"),
    ("mean |C|", "evaluation.correlation.mean_cosine", ".5f"),
    ("active", "evaluation.codes.active", ",d"),
    ("dead", "evaluation.codes.dead", ",d"),
    ("s/step", "training.seconds_per_step", ".3f"),
    ("peak GB", "training.peak_memory_bytes", "GB"),
)
LEGEND = (
    "On held-out rows. MSE: ||x_hat - x||^2, summed over d_in, averaged over rows, in the units of training; FVU: the "
    "same over the variance; FVU raw: of the model's own activations. |C|: cosine of two features' codes, over all "
    "pairs; (10+): only pairs that fire together on 10 rows or more. dead: fires on no held-out row. s/step: median; "
    "peak GB: of the training process."
)


def cells(results: Mapping[str, Any]) -> list[str]:
    """One run's row of the table; `-` for what its results.json does not hold."""
    return [_cell(results, path, style) for _, path, style in COLUMNS]


def screen_table(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    """The table, for the terminal."""
    table = Table(caption=LEGEND, caption_justify="left")
    table.add_column("run", overflow="fold")
    for heading, _, _ in COLUMNS:
        table.add_column(heading, justify="right")
    for name, results in runs.items():
        table.add_row(name, *cells(results))
    return table


def write_table(path: Path, runs: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the table as .csv or .md.

    Raises:
        SleaveError: another suffix.
    """
    rows = [["run", *(heading for heading, _, _ in COLUMNS)], *([name, *cells(r)] for name, r in runs.items())]
    if path.suffix == ".csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        write_text(path, text.getvalue())
    elif path.suffix == ".md":
        write_text(path, _markdown(rows))
    else:
        raise SleaveError(f"A table is written as .csv or .md; `{path}` ends in neither.")


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return "".join("| " + " | ".join(row) + " |\n" for row in [escaped[0], rule, *escaped[1:]])


def _cell(results: Mapping[str, Any], path: str, style: str) -> str:
    value: Any = results
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return "-"
        value = value[key]
    return f"{value / 1e9:.2f}" if style == "GB" else format(value, style)
