"""`sleave audit`."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from sleave import jobs
from sleave.base.progress import say
from sleave.cli.options import Parser, parse_settings
from sleave.cli.screen import print_table
from sleave.recipe import load_recipe
from sleave.report.screen import screen_tables

AUDIT = """\
Find out how entangled a sparse autoencoder is: which features tell most about each other, which say the same twice,
which may be one feature split in two, which may have been absorbed by another; with the texts that they fire on.

  sleave audit runs/mine                                  a run of `sleave train`: on its own held-out text
  sleave audit runs/mine recipes/other.toml --layer 8     on other text
  sleave audit downloaded/sae recipes/quickstart.toml --layer 8 --model.layers 8 --harvest.store activations/eight

PATH is a run directory, or a folder with an autoencoder. RECIPE names the language model, the layer, the text and the
folder of its activations, which are harvested if they are not there; a run directory needs none. Reads --rows rows
(tokens) of the --split: more rows show rarer features.

Writes DIR/audit.html, one page to look at, and DIR/audit.json, the same for programs.

  I          mutual information of two features' codes, in nats, less what chance alone gives
  r, C       Pearson's correlation of their codes, and the uncentred cosine
  decoder    cosine of their decoder directions: whether they write the same
  suspects   leads to be read up in the texts, not proofs
"""


def run(arguments: Sequence[str]) -> None:
    """`sleave audit`."""
    parser = Parser(
        "sleave audit",
        usage="%(prog)s PATH [RECIPE] [--out DIR] [--rows N] [--pairs N] [--split NAME] [--SECTION.KEY VALUE ...]",
        description=AUDIT,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", metavar="PATH", help="the autoencoder: a run directory, or a folder that has one")
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", help="a TOML file; a run directory needs none")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: audits/PATH, with _ for /)")
    parser.add_argument(
        "--rows", type=int, default=jobs.AUDIT_ROWS, metavar="N", help="rows at most (now: %(default)s)"
    )
    parser.add_argument("--pairs", type=int, default=50, metavar="N", help="pairs in each list (now: %(default)s)")
    splits = ("heldout", "train", "all")
    parser.add_argument("--split", choices=splits, help="which documents (default: heldout of a run, all of a RECIPE)")
    namespace, overrides = parse_settings(parser, arguments)
    if namespace.recipe:
        recipe = load_recipe(namespace.recipe, overrides)
    else:
        recipe = jobs.own_recipe(namespace.path, overrides)
    split = namespace.split or ("all" if namespace.recipe else "heldout")
    name = "_".join(part for part in Path(namespace.path).parts if part not in ("/", ".", ".."))
    out = Path(namespace.out or Path("audits") / name)
    found = jobs.audit(namespace.path, recipe, out, rows=namespace.rows, pairs=namespace.pairs, split=split)
    for table in screen_tables(found):
        print_table(table)
    say(f"Wrote {out / 'audit.json'} and {out / 'audit.html'}: open the latter in a browser")
