"""Runs side by side: on screen, and as CSV or Markdown."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from sleave.base.errors import SleaveError
from sleave.base.files import write_text

Results = Mapping[str, Mapping[str, Any]]  # results.json by run

# Name, where the number is in results.json, how it is written.
FIGURES: tuple[tuple[str, str, str], ...] = (
    ("architecture", "training.architecture", ""),
    ("constraint", "training.constraint", ""),
    ("held-out rows", "heldout.rows", ",d"),
    ("99.9th percentile of |C|", "heldout.correlation.p999_cosine", ".4f"),
    ("mean |C|", "heldout.correlation.mean_cosine", ".5f"),
    ("peak |C|", "heldout.correlation.peak_cosine", ".3f"),
    ("peak |C|, 10 rows", "heldout.correlation.peak_cosine_often", ".3f"),
    ("99.9th percentile of |r|", "heldout.correlation.p999_pearson", ".4f"),
    ("mean |r|", "heldout.correlation.mean_pearson", ".5f"),
    ("99.9th percentile of I", "heldout.information.p999", ".5f"),
    ("mean I", "heldout.information.mean", ".6f"),
    ("pairs, activity I > 0.01", "heldout.information.activity_noticeable", ".5f"),
    ("MSE", "heldout.scaled.mse", ".1f"),
    ("FVU", "heldout.scaled.fvu", ".4f"),
    ("FVU, raw", "heldout.raw.fvu", ".4f"),
    ("L0", "heldout.codes.l0", ".1f"),
    ("L1", "heldout.codes.l1", ".1f"),
    ("active features", "heldout.codes.active", ",d"),
    ("dead features", "heldout.codes.dead", ",d"),
    ("seconds/step", "training.seconds_per_step", ".3f"),
    ("peak memory, GB", "training.peak_memory_bytes", "GB"),
)
FEW_ROWS = 2000
LEGEND = (
    "|C|: cosine of two features' codes, over all pairs of features, zeros included; lower is less entangled. Peak: "
    "the largest, and the largest among pairs that fire together on 10 rows or more. r: Pearson's correlation. I: "
    "mutual information in nats, less what chance alone would give; activity I: of whether a feature fires. MSE: "
    "||x_hat - x||^2 summed over d_in, averaged over rows, in the units of training; FVU: the fraction of variance "
    "unexplained, MSE over variance; raw: of the model's own activations; lower is better. L0, L1: how many features "
    "fire on a row, and the sum of their codes; compare the rest at like L0. Dead: fires on no held-out row. "
    "seconds/step: median. Peak memory: of the training process."
)


def warnings(runs: Results) -> list[str]:
    """What a reader of the table should know before believing it."""
    few = [name for name, r in runs.items() if r.get("heldout", {}).get("rows", FEW_ROWS) < FEW_ROWS]
    if not few:
        return []
    return [
        f"Fewer than {FEW_ROWS:,} held-out rows for {', '.join(few)}: correlations and dead features say little. "
        "Harvest more text, or raise harvest.heldout_fraction."
    ]


def screen_table(runs: Results) -> Table:
    """The table for a terminal: a figure a row, a run a column, without the folders that all runs share."""
    table = Table(caption=LEGEND, caption_justify="left")
    table.add_column("")
    shared = os.path.commonpath([Path(name).resolve().parent for name in runs]) if len(runs) > 1 else "."
    for name in runs:
        table.add_column(os.path.relpath(name, shared), justify="right", overflow="fold")
    for row in _rows(runs):
        table.add_row(*row)
    return table


def check_table_path(path: Path) -> None:
    """Make sure that a table can be written there.

    Raises:
        SleaveError: the suffix is neither .csv nor .md.
    """
    if path.suffix not in (".csv", ".md"):
        raise SleaveError(f"A table is written as .csv or .md; `{path}` ends in neither.")


def write_table(path: Path, runs: Results) -> None:
    """Write the table as .csv (a run a row) or .md (a run a column).

    Raises:
        SleaveError: see `check_table_path`.
    """
    check_table_path(path)
    rows = [["run", *runs], *_rows(runs)]
    if path.suffix == ".csv":
        text = io.StringIO()
        plain = [[name, *(cell.replace(",", "") for cell in cells)] for name, *cells in rows[1:]]
        csv.writer(text, lineterminator="\n").writerows(zip(rows[0], *plain, strict=True))
        write_text(path, text.getvalue())
    else:
        lines = [rows[0], ["---", *["---:"] * len(runs)], *rows[1:]]
        write_text(path, "".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |\n" for line in lines))


def _rows(runs: Results) -> list[list[str]]:
    return [[name, *(_cell(results, path, style) for results in runs.values())] for name, path, style in FIGURES]


def _cell(results: Mapping[str, Any], path: str, style: str) -> str:
    value: Any = results
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return "-"
        value = value[key]
    return f"{value / 1e9:.2f}" if style == "GB" else format(value, style)
