"""The command line: `sleave harvest | train | evaluate | overlap | audit`."""

from sleave.cli.main import main

__all__ = ["main"]
