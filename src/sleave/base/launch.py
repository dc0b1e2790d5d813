"""How this process was started: by itself, or as one of several by `torchrun`, which says so in the environment."""

from __future__ import annotations

import os

TOLD = {"RANK", "WORLD_SIZE", "MASTER_ADDR"}  # other tools set one or the other


def launched_together() -> bool:
    """Whether there are other processes of the same job."""
    return os.environ.keys() >= TOLD and int(os.environ["WORLD_SIZE"]) > 1


def silent() -> bool:
    """Whether it is another process that tells the user what goes on."""
    return launched_together() and int(os.environ["RANK"]) > 0
