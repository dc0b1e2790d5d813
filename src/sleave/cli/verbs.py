"""What each verb does with its arguments."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from sleave import jobs
from sleave.base.errors import SleaveError
from sleave.base.progress import say
from sleave.cli.options import Parser, parse_recipe, parse_settings
from sleave.evaluation.compare import MATCHES, compare
from sleave.evaluation.table import (
    check_table_path,
    figure_tables,
    notes,
    screen_comparison,
    short_names,
    warnings,
    write_table,
)
from sleave.interop.reading import load
from sleave.interop.writing import FORMATS, save
from sleave.jobs.evaluation import ALL
from sleave.jobs.families import FAMILIES
from sleave.recipe import EvaluationSettings, load_recipe
from sleave.report.screen import screen_tables

HARVEST = """\
Run text through a language model once and keep the activations of its residual stream on disk.

  sleave harvest recipes/quickstart.toml
  sleave harvest recipes/quickstart.toml --model.layers 3,8,13 --harvest.store activations/three

One pass serves every layer in model.layers. A harvest that was stopped goes on where it was; a finished one is
reused. Training reads the store without the language model.
"""

TRAIN = """\
Train a sparse autoencoder as a recipe says, harvesting first if the activations are not there.

  sleave train recipes/quickstart.toml --out runs/mine
  sleave train recipes/quickstart.toml --out runs/none --constraint.kind none
  sleave train recipes/quickstart.toml --out runs/strong --constraint.weight 0.5 --training.steps 2000
  sleave train recipes/quickstart.toml --out runs/live --harvest.store None      (no disk: reads the model as it goes)

The same command on an unfinished DIR goes on from its last checkpoint; on a finished one it says so and stops.
DIR gets config.toml (everything resolved), metrics.jsonl (a line per step), sae/ (opens in SAELens as it is) and
results.json. The loss is ||x_hat - x||^2 (sum over d_in, mean over rows) + sparsity.weight * ||f||_1 (sum over d_sae,
mean over rows; other architectures than `relu` have their own term in its place, or none) + the constraint.
"""

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

REPORT = """\
Put runs side by side on one HTML page that needs no network: training curves, what each run gained against what it
cost, what its features share, and the most entangled pairs with the texts that they fire on.

  sleave evaluate runs/none runs/mine --suite all
  sleave report   runs/none runs/mine -o page.html

Reads only what is in the run directories (config.toml, metrics.jsonl, results.json, audit.json), so it takes seconds
and works where the activations are not. What was not measured is named on the page, with the command that measures it.
Give several sparsities of one method, and a line goes through them.
"""

OVERLAP = """\
See whether runs chose the same pairs of features: two seeds, two methods, two lengths of training.

  sleave overlap runs/seed0 runs/seed1
  sleave overlap runs/mi_ortho

Features are matched by their decoder directions (each the other's nearest, with a cosine of 0.7 at least), and the
pairs between matched features are compared: Jaccard overlap, beside what chance would give.
"""

CONVERT = """\
Take an autoencoder from one library's files to another's: the same codes, the same reconstructions.

  sleave convert runs/mine their/folder --to dictionary_learning
  sleave convert trained/trainer_0 mine                  (dictionary_learning to SAELens)
  sleave convert gemma-scope/params.npz mine

PATH is a run of `sleave train`, or what SAELens, dictionary_learning, sparsify or Gemma Scope saved; it is recognised
by its files. OUT is a folder that is not there yet. A file that leaves something open (a threshold that training never
set, a scaling that it does not say) needs activations: in Python, sleave.save(sleave.load(PATH, sample=x), OUT).
"""

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


def harvest(arguments: Sequence[str]) -> None:
    """`sleave harvest`."""
    parser = Parser(
        "sleave harvest",
        usage="%(prog)s RECIPE [--SECTION.KEY VALUE ...]",
        description=HARVEST,
        formatter_class=RawDescriptionHelpFormatter,
    )
    _, recipe = parse_recipe(parser, arguments)
    jobs.harvest(recipe)


def train(arguments: Sequence[str]) -> None:
    """`sleave train`."""
    parser = Parser(
        "sleave train",
        usage="%(prog)s RECIPE [--out DIR] [--SECTION.KEY VALUE ...]",
        description=TRAIN,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", metavar="DIR", help="the run directory (default: runs/NAME, after the recipe)")
    namespace, recipe = parse_recipe(parser, arguments)
    for run in jobs.train(recipe, namespace.out or Path("runs") / Path(namespace.recipe).stem):
        say(f"Trained: {run.sae}   Next: sleave evaluate {run.path}")


def evaluate(arguments: Sequence[str]) -> None:
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
    for table in figure_tables(results, Console().width):
        _print(table)
    names = short_names(list(results))
    if any(c.differences for c in compared):
        _print(screen_comparison(compared, names))
    else:
        for note in notes(compared, names):
            say(note)
    for warning in warnings(results):
        say(warning)
    if namespace.table:
        write_table(namespace.table, results, compared)
        say(f"Wrote {namespace.table}")


def report(arguments: Sequence[str]) -> None:
    """`sleave report`."""
    parser = Parser("sleave report", description=REPORT, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="DIR", help="run directories, or folders of them")
    parser.add_argument("-o", "--out", default="report.html", metavar="FILE", help="the page (default: %(default)s)")
    namespace = parser.parse_args(arguments)
    out = jobs.report(namespace.runs, namespace.out)
    say(f"Wrote {out}: open it in a browser")


def overlap(arguments: Sequence[str]) -> None:
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
    _print(table)


def convert(arguments: Sequence[str]) -> None:
    """`sleave convert`."""
    parser = Parser("sleave convert", description=CONVERT, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("path", metavar="PATH", help="the folder or file to read")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    parser.add_argument("--to", default="sae_lens", choices=FORMATS, help="for which library (default: sae_lens)")
    namespace = parser.parse_args(arguments)
    if namespace.out.exists():
        raise SleaveError(f"`{namespace.out}` is there already, and would be overwritten. Give another folder.")
    sae = load(namespace.path)
    save(sae, namespace.out, {"converted_from": str(namespace.path)}, format=namespace.to)
    say(f"Wrote {namespace.out}: {sae.architecture}, d_in = {sae.d_in}, d_sae = {sae.d_sae}, for {namespace.to}.")


def audit(arguments: Sequence[str]) -> None:
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
        _print(table)
    say(f"Wrote {out / 'audit.json'} and {out / 'audit.html'}: open the latter in a browser")


def _print(table: Table) -> None:
    console = Console()
    with console.capture() as text:
        console.print(table)
    print(text.get(), end="", flush=True)  # not by rich, which ends the process when nobody reads on
