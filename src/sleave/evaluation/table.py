"""Runs side by side, and each beside its baseline: on screen, and as CSV or Markdown."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from sleave.base.errors import SleaveError
from sleave.base.files import write_text
from sleave.evaluation.compare import Comparison, Difference
from sleave.evaluation.figures import FIGURES, Figure
from sleave.evaluation.methods import Interval, Method, Results, measured_alike

FEW_ROWS = 2000
NAME_WIDTH, RUN_WIDTH = 38, 19  # characters on a terminal: of the names of figures, and of a run
LEGEND = (
    "±: 95% interval over documents (of several seeds: over those, where that is wider). MSE: ||x_hat - x||^2 summed "
    "over d_in, averaged over rows, in the units of training; FVU: MSE over variance; raw: of the model's own "
    "activations. L0, L1: how many features fire on a row, and the sum of their codes. |C|: cosine of two features' "
    "codes, over all pairs of features, zeros included; r: Pearson's correlation; above chance: less the same with "
    "each feature's rows turned round. I: mutual information in nats, less chance; activity I: of whether a feature "
    "fires; 10%: of the smaller entropy. T: the top 0.1% of pairs by |C|; stability: overlap of T on two halves of "
    "the documents; synthetic: of the same architecture and constraint on known features. Entanglement: lower is "
    "better, at like L0. docs/evaluation.md says how each can mislead."
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


def figure_tables(runs: Results, width: int) -> list[Table]:
    """The figures for a terminal, as many runs beside each other as its width in characters has room for."""
    names = list(runs)
    room = max(1, (width - NAME_WIDTH) // RUN_WIDTH)
    tables = [
        screen_table({name: runs[name] for name in names[n : n + room]}, names) for n in range(0, len(names), room)
    ]
    tables[-1].caption, tables[-1].caption_justify = LEGEND, "left"
    return tables


def screen_table(runs: Results, beside: Sequence[str] = ()) -> Table:
    """Figures of runs: a figure a row, a run a column, without the folders that all runs share.

    Args:
        runs: which runs.
        beside: all that are shown, if these are a part of them.
    """
    table = Table()
    table.add_column("")
    short = short_names(list(beside or runs))
    for name in runs:
        table.add_column(escape(short[name]), justify="right", overflow="fold")
    for figures in FIGURES.values():
        for row in _rows(runs, figures):
            table.add_row(*row)
        table.add_section()
    return table


def screen_comparison(comparisons: Sequence[Comparison], names: Mapping[str, str]) -> Table:
    """Differences to the baseline for a terminal: a figure a row, a method a column; notes below."""
    compared = [c for c in comparisons if c.differences]
    caption = escape("\n".join(notes(comparisons, names)))
    table = Table(title="Less the baseline", caption=caption, caption_justify="left")
    heads, *rows = difference_rows(compared, names)
    for name in heads:
        table.add_column(escape(name), justify="right" if name else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def notes(comparisons: Sequence[Comparison], names: Mapping[str, str]) -> list[str]:
    """What each method was held against, and what to know about that."""
    lines = []
    for c in comparisons:
        between = " and ".join(_short(b, names) for b in c.baseline)
        against = f"between {between}" if len(c.baseline) > 1 else f"against {between}"
        said = "; ".join(([against] if c.status == "ok" else ["not compared"]) + list(c.notes))
        lines.append(f"{_short(c.method, names)}: {said}.")
    return lines


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names of runs without the folders that all share."""
    shared = os.path.commonpath([Path(os.path.abspath(name)).parent for name in names]) if len(names) > 1 else "."
    return {name: os.path.relpath(name, shared) for name in names}


def check_table_path(path: Path) -> None:
    """Make sure that a table can be written there.

    Raises:
        SleaveError: the suffix is neither .csv nor .md.
    """
    if path.suffix not in (".csv", ".md"):
        raise SleaveError(f"A table is written as .csv or .md; `{path}` ends in neither.")


def write_table(path: Path, runs: Results, comparisons: Sequence[Comparison] = ()) -> None:
    """Write figures and differences as .csv (a run or a method a row, plain numbers) or .md (a run a column).

    Raises:
        SleaveError: see `check_table_path`.
    """
    check_table_path(path)
    write_text(path, _csv(runs, comparisons) if path.suffix == ".csv" else _markdown(runs, comparisons))


def _markdown(runs: Results, comparisons: Sequence[Comparison]) -> str:
    rows = [row for figures in FIGURES.values() for row in _rows(runs, figures)]
    names = short_names(list(runs))
    text = markdown_table([["run", *names.values()], *rows])
    if comparisons:
        heads, *differences = difference_rows(comparisons, names)
        if differences:
            text += "\n" + markdown_table([["less the baseline", *heads[1:]], *differences])
        text += "\n" + "".join(f"* {line}\n" for line in notes(comparisons, names))
    return f"{text}\n{LEGEND}\n"


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first row is its head."""
    lines = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    return "".join("| " + " | ".join(c.strip().replace("|", "\\|") for c in line) + " |\n" for line in lines)


def _csv(runs: Results, comparisons: Sequence[Comparison]) -> str:
    """A run a row, and a method of several seeds one more: figures, differences, and the ends of their intervals."""
    compared = {c.method: c for c in comparisons}
    rows = [Method({name: runs[name]}) for name in runs]
    rows += [Method({name: runs[name] for name in c.runs}) for c in comparisons if len(c.runs) > 1]
    lines = [_csv_line(method, compared.get(method.name)) for method in rows]
    columns = list(dict.fromkeys(column for line in lines for column in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="-", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_line(method: Method, compared: Comparison | None) -> dict[str, str]:
    found: dict[Figure, Difference] = {}
    line = {"run": method.name}
    if compared is not None:
        found = {d.figure: d for d in compared.differences}
        line |= {"baseline": " and ".join(compared.baseline) or "-", "notes": "; ".join(compared.notes) or "-"}
    for figure in (f for figures in FIGURES.values() for f in figures):
        column = figure.name
        unknown = any(_status(results, figure) for results in method.runs.values())
        if unknown or not measured_alike(figure.part, [method]) or (value := method.value(figure.path)) is None:
            continue
        line[column] = figure.written(value).replace(",", "")
        line |= _ends(column, figure, method.interval(figure.path))
        if (d := found.get(figure)) is not None:
            line[f"{column}, difference"] = figure.written(d.difference).replace(",", "")
            line |= _ends(f"{column}, difference", figure, d.interval)
            line[f"{column}, verdict"] = d.verdict or "-"
    return line


def _ends(column: str, figure: Figure, interval: Interval | None) -> dict[str, str]:
    if interval is None:
        return {}
    low, high = (figure.written(end).replace(",", "") for end in interval)
    return {f"{column}, low": low, f"{column}, high": high}


def _rows(runs: Results, figures: Sequence[Figure]) -> list[list[str]]:
    """A row for each figure that some run has, or says why it has not."""
    rows = [[figure.name, *(_cell(name, results, figure) for name, results in runs.items())] for figure in figures]
    return [row for row in rows if any(cell != "-" for cell in row[1:])]


def _cell(name: str, results: Mapping[str, Any], figure: Figure) -> str:
    return _status(results, figure) or written(figure, Method({name: results}))


def written(figure: Figure, method: Method) -> str:
    """A figure of a method and its 95% interval as text; - if it is not there."""
    value = method.value(figure.path)
    return "-" if value is None else figure.written(value) + _width(figure, value, method.interval(figure.path))


def _status(results: Mapping[str, Any], figure: Figure) -> str:
    """Why a part that was measured has no figures; empty if it has."""
    status = str(results.get(figure.part, {}).get("status", "ok"))
    return "" if status == "ok" else status


def _width(figure: Figure, value: Any, interval: Interval | None) -> str:
    """An interval behind its value: half its width if the value is in its middle, otherwise its ends."""
    if interval is None:
        return ""
    low, high = interval
    if abs(low + high - 2 * value) <= 1e-6 * (high - low) + 1e-12 * abs(value):
        return f" ±{figure.written((high - low) / 2)}"
    return f" [{figure.written(low)}, {figure.written(high)}]"


def difference_rows(comparisons: Sequence[Comparison], names: Mapping[str, str]) -> list[list[str]]:
    """A row for each figure with its difference in each comparison; the first row names the methods."""
    rows = [["", *(_short(c.method, names) for c in comparisons)]]
    for figure in (f for figures in FIGURES.values() for f in figures):
        found = [{d.figure: d for d in c.differences}.get(figure) for c in comparisons]
        if any(d is not None for d in found):
            rows.append([figure.name, *("-" if d is None else _difference(d) for d in found)])
    return rows


def _difference(d: Difference) -> str:
    sign = "+" if d.difference > 0 else ""
    width = _width(d.figure, d.difference, d.interval)
    share = f" ({d.difference / abs(d.baseline):+.1%})" if d.verdict in ("better", "worse") and d.baseline else ""
    return f"{sign}{d.figure.written(d.difference)}{width}{share}" + (f" {d.verdict}" if d.verdict else "")


def _short(method: str, names: Mapping[str, str]) -> str:
    return next((short + method[len(n) :] for n, short in names.items() if (method + " ").startswith(n + " ")), method)
