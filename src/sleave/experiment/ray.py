"""Runs on a Ray cluster, or on one that is started here and ends with the caller."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sleave.base.errors import SleaveError
from sleave.base.progress import say
from sleave.experiment.memory import Estimate
from sleave.experiment.needs import devices
from sleave.experiment.work import Engine, Outcome, Task, Tick, check_at_least_one, work
from sleave.recipe import Recipe

TICK = 1.0  # seconds
ASKED = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}  # for a task, by what a machine calls it


class RayEngine(Engine):
    """Runs as tasks of Ray, which places them where there are cores and memory for them.

    The experiment's folder, the activations and the model must be on a file system that every machine of the cluster
    sees at the same path, and sleave must be installed on each.
    """

    def __init__(
        self, estimate: Estimate, address: str | None = None, jobs: int | None = None, threads: int | None = None
    ) -> None:
        """Nothing is started or reached before it is needed.

        Args:
            estimate: the most memory that a recipe's run will hold.
            address: of the cluster; by default that in RAY_ADDRESS, and without it one is started on this machine.
            jobs: how many runs at once, at most; by default as many as the cluster's machines have room for now. Give
                more where the cluster grows with what is asked of it.
            threads: how many cores each run may use; by default those of the cluster shared out among the runs.

        Raises:
            SleaveError: Ray is not installed, or one of the numbers is below 1.
        """
        check_at_least_one({"--jobs": jobs, "--threads": threads})
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise SleaveError("Ray is not installed: pip install 'sleave[ray]'.") from error
        self._ray: Any = ray
        self._address = address or os.environ.get("RAY_ADDRESS")
        self._estimate, self._jobs, self._threads = estimate, jobs, threads

    @cached_property
    def _machines(self) -> list[dict[str, float]]:
        """What each machine of the cluster has, once connected.

        Raises:
            SleaveError: the cluster does not answer.
        """
        settings = {"address": self._address} if self._address else {"address": "local", "include_dashboard": False}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            _check_answers(self._address)
            if not self._ray.is_initialized():  # by an earlier engine, or by the caller
                self._ray.init(**settings, logging_level=logging.ERROR, log_to_driver=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise SleaveError(
                f"There is no Ray cluster at `{self._address}` ({error}). Give the address that `ray status` shows, or "
                "none, for a cluster of this machine alone."
            ) from error
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray's own would abort this process before all is saved
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def threads(self, runs: int) -> int:
        """The number given, or the cluster's cores shared out among the runs, as many as one machine has at most."""
        cores = [int(machine.get("CPU", 0)) for machine in self._machines]
        return self._threads or max(1, min(max(cores), sum(cores) // max(1, min(self._jobs or runs, runs))))

    def run(self, tasks: Sequence[Task], tick: Tick) -> Generator[Outcome, None, None]:
        """See `Engine`."""
        waiting = list(tasks)
        most = self._jobs or self._at_once(tasks)
        running: dict[Future[Outcome], _Placed] = {}
        try:
            while waiting or running:
                while waiting and len(running) < most:
                    placed = self._place(waiting.pop(0))
                    running[placed.reference.future()] = placed
                tick([placed.task.name for placed in running.values()])
                # Not by ray.wait, out of which no signal's exception comes as it is.
                for future in wait(running, TICK, FIRST_COMPLETED).done:
                    yield self._outcome(future, running.pop(future))
        finally:
            self._stop(running)

    def _at_once(self, tasks: Sequence[Task]) -> int:
        """How many of some tasks the cluster has room for, at most; Ray itself would queue any number of them."""
        asked = [self._asked(task) for task in tasks]
        least = {of: min(one[name] for one in asked) for name, of in ASKED.items()}
        room = (min(int(machine.get(of, 0) // n) for of, n in least.items() if n) for machine in self._machines)
        return max(1, sum(room))

    def _asked(self, task: Task) -> dict[str, float]:
        """What a task needs of its machine. Some machine must have it, or it would wait for ever."""
        recipe = Recipe.model_validate(task.recipe)
        most = max(machine.get("memory", 0) for machine in self._machines)
        gpus = any(machine.get("GPU", 0) for machine in self._machines)
        # Without asking for one, it would see no GPU.
        wanted = any(
            device.startswith("cuda") or (gpus and device == "auto") for device in devices(recipe, task.suites)
        )
        memory = min(self._estimate(recipe).own, int(most))
        return {"num_cpus": task.threads, "num_gpus": int(wanted), "memory": memory}

    def _place(self, task: Task) -> _Placed:
        """Hand it to Ray."""
        asked = {
            **self._asked(task),
            "max_retries": 0,  # what was killed is reported; the same command goes on from its checkpoint
            "max_calls": 1,  # a process of its own
            "name": task.name,
        }
        return _Placed(task, self._ray.remote(**asked)(work).remote(task), time.perf_counter())

    def _outcome(self, future: Future[Outcome], placed: _Placed) -> Outcome:
        errors = self._ray.exceptions
        try:
            return future.result()
        except errors.OutOfMemoryError:
            why = "Ray ended it, because its machine's memory ran out: give fewer --jobs."
        except errors.RayError as error:
            why = f"Its process or machine died, or was killed ({type(error).__name__})."
        why += " The same command goes on from its last checkpoint."
        return Outcome(placed.task.name, why, time.perf_counter() - placed.began)

    def _stop(self, running: Mapping[Future[Outcome], _Placed]) -> None:
        """Let tasks save what they have, and wait for them."""
        if not running:
            return
        say(f"\nStopping {len(running)} runs, which save what they have; once more stops at once, without saving.")
        for placed in running.values():
            self._ray.cancel(placed.reference, force=False)
        wait(running)


@dataclass(frozen=True)
class _Placed:
    """A task in Ray's hands."""

    task: Task
    reference: Any
    began: float


def _check_answers(address: str | None) -> None:
    """Find out whether anything listens at an address; Ray itself would try for minutes.

    Raises:
        OSError: nothing does.
    """
    if address and (found := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)):
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=10).close()
