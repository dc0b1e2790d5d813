"""How this process was started: by itself, or as one of several by `torchrun`, which says so in the environment."""

from __future__ import annotations

import os


def launched_together() -> bool:
    """Whether there are other processes of the same job."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def silent() -> bool:
    """Whether it is another process that tells the user what goes on."""
    return launched_together() and int(os.environ.get("RANK", "0")) > 0
