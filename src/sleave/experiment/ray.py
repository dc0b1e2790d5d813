"""Runs on a Ray cluster, or on one that is started here and ends with the caller."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Sequence
from typing import Any

from sleave.base.errors import SleaveError
from sleave.base.progress import say
from sleave.experiment.memory import Estimate, Room
from sleave.experiment.work import Engine, Outcome, Task, Tick, work

TICK = 1.0  # seconds


class RayEngine(Engine):
    """Runs as tasks of Ray, which places them where there are cores and memory for them.

    The experiment's folder, the activations and the model must be on a file system that every machine of the cluster
    sees at the same path, and sleave must be installed on each.
    """

    def __init__(
        self, estimate: Estimate, address: str | None = None, jobs: int | None = None, threads: int | None = None
    ) -> None:
        """Connect to the cluster.

        Args:
            estimate: the most memory that a recipe's run will hold, in bytes.
            address: of the cluster; by default that in RAY_ADDRESS, and without it one is started on this machine.
            jobs: how many runs at once, at most.
            threads: how many cores each run may use; by default those of the cluster shared out among the runs.

        Raises:
            SleaveError: Ray is not installed, or the cluster does not answer.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise SleaveError("Ray is not installed: pip install 'sleave[ray]'.") from error
        self._ray: Any = ray
        self._estimate, self._jobs, self._threads = estimate, jobs, threads
        address = address or os.environ.get("RAY_ADDRESS")
        settings = {"address": address} if address else {"address": "local", "include_dashboard": False}
        try:
            ray.init(**settings, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise SleaveError(
                f"There is no Ray cluster at `{address}` ({error}). Give the address that `ray status` shows, or none, "
                "for a cluster of this machine alone."
            ) from error
        self._machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]

    def threads(self, runs: int) -> int:
        """The number given, or the cluster's cores shared out among the runs, as many as one machine has at most."""
        cores = [int(machine.get("CPU", 0)) for machine in self._machines]
        return self._threads or max(1, min(max(cores), sum(cores) // max(1, min(self._jobs or runs, runs))))

    def run(self, tasks: Sequence[Task], tick: Tick) -> Generator[Outcome, None, None]:
        """See `Engine`."""
        waiting = list(tasks)
        running: dict[Any, tuple[Task, float]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < (self._jobs or len(tasks)):
                    task = waiting.pop(0)
                    running[self._begin(task)] = task, time.perf_counter()
                tick([task.name for task, _ in running.values()])
                for reference in self._ray.wait(list(running), timeout=TICK)[0]:
                    task, began = running.pop(reference)
                    yield self._outcome(reference, task, began)
        finally:
            self._stop(list(running))

    def _begin(self, task: Task) -> Any:
        """Its reference. A machine must have what is asked for, or it would wait for ever."""
        most = max(machine.get("memory", 0) for machine in self._machines)
        asked = {
            "num_cpus": task.threads,
            "memory": min(Room(self._estimate).need(task), int(most)),
            "max_retries": 0,  # what was killed is reported; the same command goes on from its checkpoint
            "max_calls": 1,  # a process of its own
            "name": task.name,
        }
        return self._ray.remote(**asked)(work).remote(task)

    def _outcome(self, reference: Any, task: Task, began: float) -> Outcome:
        errors = self._ray.exceptions
        try:
            outcome: Outcome = self._ray.get(reference)
        except errors.OutOfMemoryError:
            why = "Ray ended it, because its machine's memory ran out. Give fewer --jobs."
        except errors.RayError as error:
            why = f"Its process or machine died, or was killed ({type(error).__name__})."
        else:
            return outcome
        return Outcome(
            task.name, f"{why} The same command goes on from its last checkpoint.", time.perf_counter() - began
        )

    def _stop(self, references: Sequence[Any]) -> None:
        """Let tasks save what they have, and wait for them."""
        if not references:
            return
        say(f"\nStopping {len(references)} runs, which save what they have; once more stops at once, without saving.")
        for reference in references:
            self._ray.cancel(reference, force=False)
        self._ray.wait(list(references), num_returns=len(references))
