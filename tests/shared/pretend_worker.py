"""In the place of `sleave.experiment.worker`: does at once what the name of its task says."""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    task = json.loads(sys.stdin.readline())
    what, *_ = task["name"].split("/")
    out = Path(task["out"])
    out.mkdir(parents=True, exist_ok=True)
    (out / "began").write_text(str(os.getpid()))
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "aborts":
        os.abort()
    if what == "exits":
        print("no torch here", file=sys.stderr)
        sys.exit(3)
    if what == "waits":
        sys.stdin.read()
        (out / "stopped").write_text("")
        return
    if what == "ignores":
        time.sleep(60)
    if what == "slow":
        time.sleep(0.3)
    (out / "ended").write_text("")
    error = "x" * 200_000 if what == "long" else None
    said = {"name": task["name"], "error": error, "seconds": 0.5, "peak_memory": 10**15 if what == "hungry" else 1}
    answer = json.dumps(said)
    if what == "breaks_off":
        print(answer[:20], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    print(answer)
