"""What is asked of a Ray cluster; a pretended one, which says what machines it has. See also the end-to-end tests."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from grids import make_task

from sleave.experiment.needs import Memory
from sleave.experiment.ray import RayEngine

GB = 10**9


class Cluster:
    """In the place of the module `ray`."""

    def __init__(self, *machines: dict[str, float]) -> None:
        self.machines, self.begun = machines, 0

    def is_initialized(self) -> bool:
        return self.begun > 0

    def init(self, **settings: Any) -> None:
        if self.begun:
            raise RuntimeError("Maybe you called ray.init twice by accident?")
        self.begun += 1

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": machine} for machine in self.machines]


def engine(monkeypatch, *machines: dict[str, float], memory: int = GB, **given: Any) -> RayEngine:
    monkeypatch.setitem(sys.modules, "ray", Cluster(*machines))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return RayEngine(lambda recipe: Memory(memory, 50 * GB), **given)


def test_a_second_engine_in_one_process_shares_the_cluster(monkeypatch):
    first = engine(monkeypatch, {"CPU": 4, "memory": GB})
    second = RayEngine(lambda recipe: Memory(GB, 0))
    assert (first.threads(2), second.threads(4)) == (2, 1)
    assert sys.modules["ray"].begun == 1


def test_as_many_tasks_as_there_is_room_for(monkeypatch, tmp_path):
    machines = [{"CPU": 5, "memory": 8 * GB}, {"CPU": 2, "memory": 8 * GB}, {"memory": GB}]
    tasks = [make_task(tmp_path, f"a/{n}", threads=2) for n in range(9)]
    assert engine(monkeypatch, *machines)._at_once(tasks) == 3
    assert engine(monkeypatch, *machines, memory=5 * GB)._at_once(tasks) == 2
    assert engine(monkeypatch, {"CPU": 1, "memory": GB})._at_once(tasks) == 1


@pytest.mark.parametrize(
    ("device", "gpus", "asked", "at_once"),
    [("auto", 2, 1, 2), ("auto", 0, 0, 8), ("cpu", 2, 0, 8), ("cuda:0", 2, 1, 2)],
)
def test_a_task_that_can_use_a_gpu_asks_for_one(monkeypatch, tmp_path, device, gpus, asked, at_once):
    machine = {"CPU": 8, "memory": 8 * GB} | ({"GPU": gpus} if gpus else {})
    task = make_task(tmp_path, "a", training={"device": device})
    made = engine(monkeypatch, machine)
    assert made._asked(task) == {"num_cpus": 1, "num_gpus": asked, "memory": GB}
    assert made._at_once([task] * 9) == at_once


def test_no_more_memory_is_asked_for_than_some_machine_has(monkeypatch, tmp_path):
    made = engine(monkeypatch, {"CPU": 8, "memory": 8 * GB}, memory=20 * GB)
    assert made._asked(make_task(tmp_path, "a"))["memory"] == 8 * GB
