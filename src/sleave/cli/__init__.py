"""The command line: `sleave harvest | train | evaluate | overlap | audit | convert`."""

from sleave.cli.main import main

__all__ = ["main"]
