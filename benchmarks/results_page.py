"""The tables of docs/results.md, made from results/*.json.

    python -m benchmarks.results_page              fill them in
    python -m benchmarks.results_page --check      say what would change, and exit with 1 if anything would
    python -m benchmarks.results_page --collect runs/mi_ortho_grid mi_ortho --command "sleave experiment ..."
                                                   first put the figures of a folder's finished runs into
                                                   results/mi_ortho.json, then fill the page in

A block of the page begins with <!-- table: NAME --> and ends with <!-- end -->. results/tables.toml says what the table
of that name shows:

    [NAME]
    results = "mi_ortho"            # results/mi_ortho.json
    figures = ["L0", "FVU"]         # names of sleave.evaluation.figures, in this order
    methods = ["none", "run10"]     # the columns; all when absent
    layers = [13]                   # likewise
    settings = true                 # whether runs whose settings vary are shown (else only those as they are)
    papers = "mi_ortho"             # rows of results/papers.toml below, whose keys are columns, without their layer
    differences = true              # a row for each method: how much more than its baseline at like L0 (`compare`)

Runs that differ only in their seed are one column: the mean over seeds, with its 95% interval.
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import model_validator

from sleave.base.errors import SleaveError, nearest
from sleave.base.files import read_json, read_toml, write_text
from sleave.base.settings import Settings, parse
from sleave.evaluation.compare import Difference, compare
from sleave.evaluation.figures import FIGURES, Figure
from sleave.evaluation.methods import Method
from sleave.evaluation.table import markdown_table, written
from sleave.experiment.collect import write

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results.md"
RESULTS = ROOT / "results"
BLOCK = re.compile(r"(<!-- table: (?P<name>[^\n]*?) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)
FEW = ("dead features",)  # counts that may be next to nothing, of which a share says nothing
BY_NAME = {figure.name: figure for figures in FIGURES.values() for figure in figures}


class TableSettings(Settings):
    """A table of results/tables.toml."""

    results: str
    figures: tuple[str, ...]
    methods: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    settings: bool = False
    papers: str | None = None
    differences: bool = False

    @model_validator(mode="after")
    def _papers_are_no_differences(self) -> TableSettings:
        if self.differences and self.papers:
            raise ValueError("differences and papers cannot stand in one table: a paper's figures are no differences")
        return self


def filled(page: str, folder: Path = RESULTS) -> str:
    """A page with its marked blocks filled in.

    Args:
        page: its Markdown.
        folder: with tables.toml, papers.toml and the results.

    Raises:
        SleaveError: a block is not ended, or names a table that is not there; or a table names what is not there.
    """
    if page.count("<!-- table:") != len(BLOCK.findall(page)):
        raise SleaveError("A block of the page that begins with `<!-- table: NAME -->` does not end in `<!-- end -->`.")
    return BLOCK.sub(lambda m: m[1] + table(m["name"], folder) + m[4], page)


def table(name: str, folder: Path = RESULTS) -> str:
    """A table of results/tables.toml as Markdown, the command and the machine above it."""
    known = read_toml(folder / "tables.toml")
    if name not in known:
        raise SleaveError(f"There is no table `{name}` in {folder / 'tables.toml'}. {nearest(name, known)}")
    settings = parse(TableSettings, known[name], where=f"The table `{name}` of {folder / 'tables.toml'}")
    collected = read_json(folder / f"{settings.results}.json")
    columns = _columns(collected["runs"], settings)
    figures = [_figure(f) for f in settings.figures]
    if settings.differences:
        rows = _differences(columns, figures)
    else:
        rows = [["", *columns]] + [[f.name, *(_cell(f, m) for m in columns.values())] for f in figures]
    if settings.papers:
        rows += _papers(settings.papers, columns, folder)
    return f"{_made_by(collected, columns)}\n\n{markdown_table(rows)}"


def _columns(runs: Sequence[Mapping[str, Any]], settings: TableSettings) -> dict[str, Method]:
    """The runs of each column, those of all seeds together."""
    grouped: dict[tuple[str, ...], dict[str, Any]] = {}
    short = _short([key for run in runs for key in run["settings"]])
    for run in runs:
        wanted = not settings.methods or run["method"] in settings.methods
        wanted &= not settings.layers or run["layer"] in settings.layers
        if wanted and (settings.settings or not run["settings"]):
            varied = tuple(f"{short[key]} {value}" for key, value in run["settings"].items())
            grouped.setdefault((run["method"], *varied, f"layer {run['layer']}"), {})[run["name"]] = run["results"]
    if not grouped:
        raise SleaveError(f"No run of results/{settings.results}.json is of the methods and layers of its table.")
    order = {method: n for n, method in enumerate(settings.methods)}
    grouped = {key: grouped[key] for key in sorted(grouped, key=lambda key: order.get(key[0], 0))}
    several = len({key[-1] for key in grouped}) > 1
    return {", ".join(key if several else key[:-1]): Method(results) for key, results in grouped.items()}


def _short(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, such as `weight` of constraint.weight, unless several keys end alike."""
    ends = {key: key.rpartition(".")[2] for key in keys}
    return {key: key if list(ends.values()).count(end) > 1 else end for key, end in ends.items()}


def _figure(name: str) -> Figure:
    if name not in BY_NAME:
        raise SleaveError(f"There is no figure `{name}`. {nearest(name, BY_NAME)}")
    return BY_NAME[name]


def _cell(figure: Figure, method: Method) -> str:
    """The figure, or why a run has none."""
    statuses = [results.get(figure.part, {}).get("status", "ok") for results in method.runs.values()]
    return next((status for status in statuses if status != "ok"), written(figure, method))


def _differences(columns: Mapping[str, Method], figures: Sequence[Figure]) -> list[list[str]]:
    """A row for each method that has a baseline: each figure's difference, as a share of the baseline's."""
    named = {run: column for column, method in columns.items() for run in method.runs}
    compared = compare({run: results for method in columns.values() for run, results in method.runs.items()})
    rows = [["", *(figure.name for figure in figures)]]
    for comparison in compared:
        found = {difference.figure: difference for difference in comparison.differences}
        cells = [_share(found[figure]) if figure in found else "-" for figure in figures]
        rows.append([named[comparison.runs[0]], *cells])
    return rows


def _share(difference: Difference) -> str:
    if not difference.baseline or difference.figure.name in FEW:
        return f"{difference.difference:+.3g}"
    share = f"{difference.difference / abs(difference.baseline):+.1%}"
    if difference.interval is None:
        return share
    low, high = difference.interval
    return f"{share} ±{(high - low) / 2 / abs(difference.baseline):.1%}"


def _papers(paper: str, columns: Mapping[str, Method], folder: Path) -> list[list[str]]:
    """A row for each figure that a paper reports, under the methods that it reports it of, at every layer."""
    reported = read_toml(folder / "papers.toml")
    if paper not in reported:
        raise SleaveError(f"There is no paper `{paper}` in {folder / 'papers.toml'}. {nearest(paper, reported)}")
    methods = [re.sub(r", layer \d+$", "", column) for column in columns]
    return [
        [f"*the paper's {row['figure']} ({row['where']})*", *(f"*{row[m]}*" if m in row else "" for m in methods)]
        for row in reported[paper]
    ]


def _made_by(collected: Mapping[str, Any], columns: Mapping[str, Method]) -> str:
    seeds = sorted({len(method.runs) for method in columns.values()})
    counted = " to ".join(str(n) for n in dict.fromkeys((seeds[0], seeds[-1])))
    seed = "seed" if seeds == [1] else "seeds"
    parts = [collected["title"], f"{counted} {seed}", *collected["machines"]]
    parts += [f"commit {', '.join(collected['commits'])}"] if collected["commits"] else []
    command = f"`{collected['command']}`: " if collected["command"] else ""
    return f"{command}{'; '.join(parts)}."


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--check", action="store_true", help="change nothing; fail if the page is not up to date")
    either.add_argument(
        "--collect", nargs=2, metavar=("RUNS_FOLDER", "NAME"), help="first write NAME.json of an experiment's runs"
    )
    parser.add_argument("--command", default="", help="what made those runs, to be told above their tables")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page (default: docs/results.md)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of results (default: results)")
    options = parser.parse_args(argv)
    before = options.page.read_text(encoding="utf-8")
    try:
        if options.collect:
            runs, name = options.collect
            write(runs, options.results / f"{name}.json", options.command)
        after = filled(before, options.results)
    except SleaveError as error:
        parser.error(str(error))
    if not options.check:
        write_text(options.page, after)
        return 0
    lines = [page.splitlines(keepends=True) for page in (before, after)]
    changes = "".join(difflib.unified_diff(*lines, str(options.page), "what the results give"))
    sys.stdout.write(changes)
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main())
