"""`sleave convert`."""

from __future__ import annotations

from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from sleave.base.errors import SleaveError
from sleave.base.progress import say
from sleave.cli.options import Parser
from sleave.interop.reading import load
from sleave.interop.writing import FORMATS, save

CONVERT = """\
Take an autoencoder from one library's files to another's: the same codes, the same reconstructions.

  sleave convert runs/mine their/folder --to dictionary_learning
  sleave convert trained/trainer_0 mine                  (dictionary_learning to SAELens)
  sleave convert gemma-scope/params.npz mine

PATH is a run of `sleave train`, or what SAELens, dictionary_learning, sparsify or Gemma Scope saved; it is recognised
by its files. OUT is a folder that is not there yet. A file that leaves something open (a threshold that training never
set, a scaling that it does not say) needs activations: in Python, sleave.save(sleave.load(PATH, sample=x), OUT).
"""


def run(arguments: Sequence[str]) -> None:
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
