"""The command line: `sleave harvest | train | evaluate | overlap | convert`."""

from sleave.cli.main import main

__all__ = ["main"]
