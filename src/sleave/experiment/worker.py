"""The process of one task: `local.py` starts it, and talks to it through its standard input and output."""

from __future__ import annotations

import os
import signal
import sys
import threading

from pydantic import TypeAdapter

from sleave.experiment.work import Outcome, Task, work


def main() -> None:
    """Read a task, do it, and answer what came of it."""
    answer = os.dup(1)  # since what is printed goes elsewhere
    os.dup2(2, 1)
    task = TypeAdapter(Task).validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_stop_with_the_caller, daemon=True).start()
    outcome = work(task)
    with os.fdopen(answer, "wb") as stream:
        stream.write(TypeAdapter(Outcome).dump_json(outcome))


def _stop_with_the_caller() -> None:
    """When the other end of standard input closes, the caller asks to stop, or is gone, whatever killed it."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
