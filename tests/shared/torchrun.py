"""Several processes at once, as torchrun starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMAND = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
}


def torchrun(processes: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """What came of a script, or of `-m sleave ...`, in so many processes."""
    command = [*COMMAND, f"--nproc-per-node={processes}", *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
