"""`sleave harvest`."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from sleave import jobs
from sleave.cli.options import Parser, parse_recipe

HARVEST = """\
Run text through a language model once and keep the activations of its residual stream on disk.

  sleave harvest recipes/quickstart.toml
  sleave harvest recipes/quickstart.toml --model.layers 3,8,13 --harvest.store activations/three

One pass serves every layer in model.layers. A harvest that was stopped goes on where it was; a finished one is
reused. Training reads the store without the language model.
"""


def run(arguments: Sequence[str]) -> None:
    """`sleave harvest`."""
    parser = Parser(
        "sleave harvest",
        usage="%(prog)s RECIPE [--SECTION.KEY VALUE ...]",
        description=HARVEST,
        formatter_class=RawDescriptionHelpFormatter,
    )
    _, recipe = parse_recipe(parser, arguments)
    jobs.harvest(recipe)
