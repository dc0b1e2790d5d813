"""Runs in processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from typing import IO

from pydantic import TypeAdapter, ValidationError

from sleave.base.device import choose_device
from sleave.base.environment import num_cores, total_memory
from sleave.base.progress import say
from sleave.experiment.memory import Estimate, Room
from sleave.experiment.work import Engine, Outcome, Task, Tick, check_at_least_one

# With this process's own import path. Not by multiprocessing, which would import the caller's script in every worker,
# and whose processes die of a Ctrl-C that is meant for the caller before they can save.
PROGRAM = "import sys; sys.path[:] = {path!r}; from sleave.experiment.worker import main; main()"
TICK = 1.0  # seconds


def jobs_at_once(most: int, devices: Collection[str], threads: int | None = None) -> int:
    """How many runs this machine can make at once: always the same, whatever else it does now.

    That must be, since it decides how many cores each run gets, and those its weights, to the last bit.

    Args:
        most: bytes of memory that the largest run takes.
        devices: settings of all devices that runs compute on. With a GPU among them one runs at a time: nothing here
            knows how much of the GPU's memory each would take.
        threads: how many cores each run may use, if that is given.

    Raises:
        SleaveError: there is no such device here.
    """
    if any(choose_device(device).type == "cuda" for device in devices):
        return 1
    return max(1, min(num_cores() // (threads or 1), total_memory() // most))


class LocalEngine(Engine):
    """As many runs at once as there are cores and memory for, each in a process of its own."""

    def __init__(self, estimate: Estimate, jobs: int | None = None, threads: int | None = None) -> None:
        """
        Args:
            estimate: the most memory that a recipe's run will hold. One always runs, whatever it needs.
            jobs: how many runs at once, at most; by default as many as there are cores. See `jobs_at_once`.
            threads: how many cores each run may use; by default the cores shared out among the runs at once.

        Raises:
            SleaveError: one of the numbers is below 1.
        """
        check_at_least_one({"--jobs": jobs, "--threads": threads})
        self._estimate = estimate
        self._jobs = jobs or max(1, num_cores() // (threads or 1))
        self._threads = threads

    def threads(self, runs: int) -> int:
        """The number given, or the cores shared out among the runs at once."""
        return self._threads or max(1, num_cores() // max(1, min(self._jobs, runs)))

    def run(self, tasks: Sequence[Task], tick: Tick) -> Generator[Outcome, None, None]:
        """See `Engine`."""
        room = Room(self._estimate)
        waiting = list(tasks)
        running: list[_Process] = []
        try:
            while waiting or running:
                while (task := self._next(waiting, running, room)) is not None:
                    waiting.remove(task)
                    running.append(_Process(task))
                tick([process.task.name for process in running])
                ended = wait([process.answer.fileno() for process in running], TICK)
                for process in [p for p in running if p.answer.fileno() in ended]:
                    outcome = process.outcome()
                    running.remove(process)
                    room.learn(process.task, outcome)
                    yield outcome
        finally:
            _stop(running)

    def _next(self, waiting: Sequence[Task], running: Sequence[_Process], room: Room) -> Task | None:
        """The first task that there is room for."""
        if not waiting or not running:
            return next(iter(waiting), None)
        if len(running) >= self._jobs:
            return None
        held = {process.id: process.task for process in running}
        return next((task for task in waiting if room.has_room_for(task, held)), None)


class _Process:
    """A task in a process: it stops when what it reads from ends, be it that it is closed or that this process dies."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._began = time.perf_counter()
        task.log.parent.mkdir(parents=True, exist_ok=True)
        with task.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM.format(path=sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": str(task.threads)},
                bufsize=0,
                start_new_session=True,  # a Ctrl-C at the terminal is the caller's alone
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders = self._process.stdin
        self.answer: IO[bytes] = self._process.stdout
        with suppress(BrokenPipeError):  # it died at once; `outcome` says of what
            self._orders.write(TypeAdapter(Task).dump_json(task) + b"\n")

    @property
    def id(self) -> int:
        return self._process.pid

    def outcome(self) -> Outcome:
        """What it answered, or how it died."""
        answer = self.answer.read()
        status = self._end()
        with suppress(ValidationError):  # nothing, or cut short: it died
            return TypeAdapter(Outcome).validate_json(answer)
        return Outcome(self.task.name, _death(status), time.perf_counter() - self._began)

    def ask_to_stop(self) -> None:
        self._orders.close()

    def wait(self) -> None:
        self.answer.read()
        self._end()

    def kill(self) -> None:
        self._process.kill()
        self._end()

    def _end(self) -> int:
        status = self._process.wait()
        self._orders.close()
        self.answer.close()
        return status


def _stop(running: Sequence[_Process]) -> None:
    """Let processes save what they have, and wait for them; another signal kills them."""
    if not running:
        return
    say(f"\nStopping {len(running)} runs, which save what they have; once more stops at once, without saving.")
    try:
        for process in running:
            process.ask_to_stop()
        for process in running:
            process.wait()
    except BaseException:
        for process in running:
            process.kill()
        raise


def _death(status: int) -> str:
    if status == -signal.SIGKILL:
        return (
            "Its process was killed (SIGKILL), most likely because memory ran out: give fewer --jobs. The same command "
            "goes on from its last checkpoint."
        )
    if status < 0:
        return (
            f"Its process was killed by {signal.Signals(-status).name}. The same command goes on from its checkpoint."
        )
    return f"Its process ended with status {status} before it could say why."
