"""Verbs, thin: each reads its arguments, calls a job and prints what came of it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from sleave import __version__

DESCRIPTION = """\
Train sparse autoencoders whose features do not say the same thing twice, and measure how entangled any are.

  sleave harvest  RECIPE              text -> language model -> activations on disk
  sleave train    RECIPE --out DIR    activations -> sparse autoencoder in DIR/sae (SAELens's format)
  sleave evaluate DIR ...             held-out figures of trained runs, side by side
  sleave report   DIR ...             runs side by side as one page to look at: curves, maps, pairs with their texts
  sleave overlap  DIR DIR ...         whether runs (of other seeds, say) chose the same pairs
  sleave audit    DIR [RECIPE]        how entangled any autoencoder is, pair by pair, with texts, as a page to look at
  sleave experiment FILE              a grid of runs: methods, layers, seeds, any setting; table and page
  sleave convert  PATH OUT            an autoencoder from one library's files to another's

A recipe is a TOML file; every setting in it can be changed on the command line (--constraint.weight 0.2).
`sleave train RECIPE --help` lists them all, with the recipe's values.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0 fine, 2 the user's mistake, 128 + n stopped by signal n)."""
    # Large tensors in large pages: a fifth off a wide step. torch reads it once, before its first tensor.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        "sleave", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"sleave {__version__}")
    parser.add_argument(
        "verb",
        choices=("harvest", "train", "evaluate", "report", "overlap", "audit", "convert", "experiment"),
        help="what to do; `sleave VERB --help`",
    )
    known = parser.parse_args(arguments[:1] or ["--help"])

    from sleave.base.errors import SleaveError
    from sleave.base.launch import launched_together
    from sleave.training.interruption import Interrupted, raised_on_sigterm

    kept = "stopped. What was finished is kept; the same command goes on."
    try:
        if launched_together() and known.verb not in ("harvest", "train"):
            raise SleaveError(f"`torchrun` is for `sleave harvest` and `train`; run `sleave {known.verb}` by itself.")
        with raised_on_sigterm(kept):
            import_module(f"sleave.cli.verbs.{known.verb}").run(arguments[1:])
    except SleaveError as error:
        print(f"sleave {known.verb}: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(f"\nsleave {known.verb}: {stopped}", file=sys.stderr)
        return 128 + stopped.signal_number
    except KeyboardInterrupt:
        print(f"\nsleave {known.verb}: {kept}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `sleave evaluate ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return 0
