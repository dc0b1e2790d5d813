"""`sleave evaluate`."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from sleave import jobs
from sleave.base.progress import say
from sleave.cli.options import Parser, parse_settings
from sleave.cli.screen import print_side_by_side
from sleave.evaluation.compare import MATCHES, compare
from sleave.evaluation.table import check_table_path, write_table
from sleave.jobs.evaluation import ALL
from sleave.jobs.families import FAMILIES
from sleave.recipe import EvaluationSettings

EVALUATE = """\
Evaluate finished runs on documents that training never saw, and put them side by side.

  sleave evaluate runs/mine
  sleave evaluate runs/none runs/mine --table comparison.md
  sleave evaluate runs/none runs/mine --suite all
  sleave evaluate runs/mine --baseline runs/none_sparser runs/none_denser

Each suite is a part of DIR/results.json. A part that was measured with the same settings is kept, unless --again is
given; what was measured before a run is stopped stays.

SUITES
Each run is held against a baseline at the same L0 (--match fvu: the same FVU): the runs without a constraint of the
same architecture, widths and activations, or those given. Between baselines of several sparsities it is interpolated.
A difference whose 95% interval holds 0 is within noise. Runs that differ only in their seed are taken together.
docs/evaluation.md says what each figure is, and how it can mislead. Next: sleave report DIR...
"""


def run(arguments: Sequence[str]) -> None:
    """`sleave evaluate`."""
    suites = "".join(f"  {name:<13}{family.says}\n" for name, family in FAMILIES.items())
    described = EVALUATE.replace("SUITES", f"{suites}  {ALL:<13}everything\n")
    parser = Parser(
        "sleave evaluate",
        usage="%(prog)s DIR [DIR ...] [--suite NAME ...] [--table FILE] [--baseline DIR ...] [--SETTING VALUE ...]",
        description=described,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="DIR", help="run directories, or folders of them")
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write the table as .csv or .md")
    parser.add_argument("--store", metavar="DIR", help="the activation store, if it has moved")
    parser.add_argument("--again", action="store_true", help="evaluate anew what has been evaluated")
    suites_named = (*FAMILIES, ALL)
    text = "what to measure (default: heldout)"
    parser.add_argument("--suite", nargs="+", metavar="NAME", choices=suites_named, default=["heldout"], help=text)
    parser.add_argument("--baseline", nargs="+", default=[], metavar="DIR", help="what to hold the others against")
    parser.add_argument("--match", default="l0", choices=MATCHES, help="compare at the same (now: %(default)s)")
    namespace, settings = parse_settings(parser, arguments, EvaluationSettings)
    if namespace.table:
        check_table_path(namespace.table)  # before what may take minutes
    baseline = [run for path in namespace.baseline for run in jobs.runs_in(path)]
    runs = {run.path: run for run in baseline + [run for path in namespace.runs for run in jobs.runs_in(path)]}
    results = {
        str(run.path): jobs.evaluate(
            run, namespace.store, suite=namespace.suite, settings=settings, again=namespace.again
        )
        for run in runs.values()
    }
    compared = compare(results, [str(run.path) for run in baseline], namespace.match) if len(results) > 1 else ()
    print_side_by_side(results, compared)
    if namespace.table:
        write_table(namespace.table, results, compared)
        say(f"Wrote {namespace.table}")
