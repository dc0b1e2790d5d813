"""The command line: `sleave harvest | train | evaluate`."""

from sleave.cli.main import main

__all__ = ["main"]
