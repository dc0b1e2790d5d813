"""`sleave overlap`."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from itertools import combinations

from rich.table import Column, Table

from sleave import jobs
from sleave.base.errors import SleaveError
from sleave.cli.options import Parser
from sleave.cli.screen import print_table

OVERLAP = """\
See whether runs chose the same pairs of features: two seeds, two methods, two lengths of training.

  sleave overlap runs/seed0 runs/seed1
  sleave overlap runs/mi_ortho

Features are matched by their decoder directions (each the other's nearest, with a cosine of 0.7 at least), and the
pairs between matched features are compared: Jaccard overlap, beside what chance would give.
"""


def run(arguments: Sequence[str]) -> None:
    """`sleave overlap`."""
    parser = Parser("sleave overlap", description=OVERLAP, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="DIR", help="run directories, or folders of them")
    runs = [run for path in parser.parse_args(arguments).runs for run in jobs.runs_in(path)]
    without = [str(run.path) for run in runs if not run.pairs_file.is_file()]
    runs = [run for run in runs if run.pairs_file.is_file()]
    if len(runs) < 2:
        others = f" Left out, unfinished or of a kind (none, full) that chooses none: {', '.join(without)}." * bool(
            without
        )
        raise SleaveError(f"{len(runs)} of these runs chose pairs; give two at least that did.{others}")
    table = Table(
        Column("first", overflow="fold"),
        Column("second", overflow="fold"),
        "features matched",
        "pairs between them",
        "Jaccard overlap",
        "by chance",
    )
    for a, b in combinations(runs, 2):
        o = jobs.overlap(a, b)
        figures = (f"{o.matched:.1%}", f"{o.pairs:,}", f"{o.jaccard:.3f}", f"{o.chance:.3f}")
        table.add_row(str(a.path), str(b.path), *figures)
    print_table(table)
