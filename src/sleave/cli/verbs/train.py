"""`sleave train`."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from sleave import jobs
from sleave.base.progress import say
from sleave.cli.options import Parser, parse_recipe

TRAIN = """\
Train a sparse autoencoder as a recipe says, harvesting first if the activations are not there.

  sleave train recipes/quickstart.toml --out runs/mine
  sleave train recipes/quickstart.toml --out runs/none --constraint.kind none
  sleave train recipes/quickstart.toml --out runs/strong --constraint.weight 0.5 --training.steps 2000
  sleave train recipes/quickstart.toml --out runs/live --harvest.store None      (no disk: reads the model as it goes)
  torchrun --nproc-per-node=2 -m sleave train recipes/quickstart.toml --out runs/mine    (every batch shared out)

The same command on an unfinished DIR goes on from its last checkpoint; on a finished one it says so and stops.
DIR gets config.toml (everything resolved), metrics.jsonl (a line per step), sae/ (opens in SAELens as it is) and
results.json. The loss is ||x_hat - x||^2 (sum over d_in, mean over rows) + sparsity.weight * ||f||_1 (sum over d_sae,
mean over rows; other architectures than `relu` have their own term in its place, or none) + the constraint.
"""


def run(arguments: Sequence[str]) -> None:
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
