"""The command line: `sleave harvest | train | evaluate | report | overlap | audit | convert | experiment`."""

from sleave.cli.main import main

__all__ = ["main"]
