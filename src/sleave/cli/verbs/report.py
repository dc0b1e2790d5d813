"""`sleave report`."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from sleave import jobs
from sleave.base.progress import say
from sleave.cli.options import Parser

REPORT = """\
Put runs side by side on one HTML page that needs no network: training curves, what each run gained against what it
cost, what its features share, and the most entangled pairs with the texts that they fire on.

  sleave evaluate runs/none runs/mine --suite all
  sleave report   runs/none runs/mine -o page.html

Reads only what is in the run directories (config.toml, metrics.jsonl, results.json, audit.json), so it takes seconds
and works where the activations are not. What was not measured is named on the page, with the command that measures it.
Give several sparsities of one method, and a line goes through them.
"""


def run(arguments: Sequence[str]) -> None:
    """`sleave report`."""
    parser = Parser("sleave report", description=REPORT, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="DIR", help="run directories, or folders of them")
    parser.add_argument("-o", "--out", default="report.html", metavar="FILE", help="the page (default: %(default)s)")
    namespace = parser.parse_args(arguments)
    out = jobs.report(namespace.runs, namespace.out)
    say(f"Wrote {out}: open it in a browser")
