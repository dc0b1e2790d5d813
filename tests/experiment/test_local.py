"""Processes of this machine: how many at once, and what becomes of those that fail, die or are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from grids import ignore, make_task

from sleave.base.environment import num_cores
from sleave.base.errors import SleaveError
from sleave.experiment import local, memory
from sleave.experiment.local import LocalEngine, jobs_at_once
from sleave.experiment.memory import Room
from sleave.experiment.needs import Memory
from sleave.experiment.work import Outcome, Task

GB = 10**9
PRETEND = "import sys; sys.path[:] = {path!r}; from pretend_worker import main; main()"


@pytest.fixture
def pretend(monkeypatch):
    """Workers that do what the names of their tasks say."""
    monkeypatch.setattr(local, "PROGRAM", PRETEND)


def nothing(recipe) -> Memory:
    return Memory(0, 0)


def run(engine, tasks, tick=ignore) -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in engine.run(tasks, tick)}


def test_one_that_dies_stops_no_other(pretend, tmp_path):
    names = ["killed", "fine", "exits", "aborts", "fine/too"]
    outcomes = run(LocalEngine(nothing, jobs=2), [make_task(tmp_path, name) for name in names])
    assert outcomes.keys() == set(names)
    assert [outcomes[name].error for name in ("fine", "fine/too")] == [None, None]
    assert "was killed (SIGKILL), most likely because memory ran out: give fewer --jobs" in outcomes["killed"].error
    assert "was killed by SIGABRT" in outcomes["aborts"].error
    assert outcomes["exits"].error == "Its process ended with status 3 before it could say why."
    assert "no torch here" in (tmp_path / "logs" / "exits.log").read_text()


def test_an_answer_that_is_cut_short_is_a_death(pretend, tmp_path):
    outcomes = run(LocalEngine(nothing, jobs=1), [make_task(tmp_path, name) for name in ("breaks_off", "fine")])
    assert "was killed (SIGKILL)" in outcomes["breaks_off"].error
    assert outcomes["fine"].error is None


def test_a_long_answer_arrives_whole(pretend, tmp_path):
    assert len(run(LocalEngine(nothing), [make_task(tmp_path, "long")])["long"].error) == 200_000


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_more_at_once_than_asked_for(pretend, tmp_path, jobs):
    most = []
    tasks = [make_task(tmp_path, f"slow/{n}") for n in range(4)]
    outcomes = run(LocalEngine(nothing, jobs=jobs), tasks, lambda running: most.append(len(running)))
    assert len(outcomes) == 4
    assert max(most) == jobs


def test_one_always_runs_and_more_only_if_they_fit(pretend, tmp_path):
    most = []
    tasks = [make_task(tmp_path, f"slow/{n}") for n in range(3)]
    run(LocalEngine(lambda recipe: Memory(10**18, 0), jobs=3), tasks, lambda running: most.append(len(running)))
    assert max(most) == 1


def test_what_one_took_counts_for_those_like_it(pretend, tmp_path):
    at_once = []
    names = ["hungry", "slow/1", "slow/2"]
    tasks = [make_task(tmp_path, name) for name in names]
    engine = LocalEngine(nothing, jobs=2)
    for _ in engine.run(tasks, lambda running: at_once.append(set(running))):
        pass
    assert {"slow/1", "slow/2"} not in at_once


def test_room(monkeypatch, tmp_path):
    """By hand: 10 GB are free, a run that took 1 GB so far may take 3 more."""
    monkeypatch.setattr(memory, "free_memory", lambda: 10 * GB)
    monkeypatch.setattr(memory, "_held", {1: GB, 2: 9 * GB, 3: 0}.get)
    small, large = make_task(tmp_path, "small"), make_task(tmp_path, "large", autoencoder={"d_sae": 64})
    asked = []

    def estimate(recipe) -> Memory:
        asked.append(recipe.autoencoder.d_sae)
        return Memory({12: 4 * GB, 64: 7 * GB}[recipe.autoencoder.d_sae], 2 * GB)

    room = Room(estimate)
    assert room.has_room_for(large, {1: small})
    assert not room.has_room_for(large, {1: small, 3: small})
    assert room.has_room_for(large, {2: small})  # it has all that it will take, and more
    room.learn(small, Outcome("small", None, 1.0, 5 * GB))
    assert room.need(small) == 4 * GB  # 2 of those 5 may have been mapped rows, which count as free
    room.learn(small, Outcome("small", None, 1.0, 7 * GB))
    assert room.need(small) == 5 * GB
    assert not room.has_room_for(large, {1: small})
    assert room.need(large) == 7 * GB  # of another kind
    room.learn(small, Outcome("small", None, 1.0, GB))
    assert room.need(small) == 5 * GB
    assert sorted(asked) == [12, 64]  # once for each task


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no such figures there")
def test_what_a_process_holds_is_without_files(tmp_path):
    file = tmp_path / "store"
    file.write_bytes(bytes(10**8))
    before = memory._held(os.getpid())
    mapped = np.memmap(file, np.uint8, "r")
    assert mapped.sum() == 0
    assert 10**7 < memory._held(os.getpid()) < before + 5 * 10**7
    assert memory._held(2**31 - 1) == 0


def test_as_many_at_once_as_there_is_room_for(monkeypatch):
    """Of all memory, not of what is free now: the same whenever it is asked for."""
    monkeypatch.setattr(local, "num_cores", lambda: 8)
    monkeypatch.setattr(local, "total_memory", lambda: 32 * GB)
    monkeypatch.setattr(local, "choose_device", torch.device)
    assert jobs_at_once(GB, {"cpu"}) == 8
    assert jobs_at_once(GB, {"cpu"}, threads=3) == 2
    assert jobs_at_once(10 * GB, {"cpu"}) == 3
    assert jobs_at_once(100 * GB, {"cpu"}) == 1
    assert jobs_at_once(GB, {"cpu", "cuda:1"}) == 1
    assert LocalEngine(nothing, jobs_at_once(10 * GB, {"cpu"})).threads(9) == 2


def test_cores_are_shared_out():
    cores = num_cores()
    assert LocalEngine(nothing).threads(10**6) == 1
    assert LocalEngine(nothing).threads(1) == cores
    assert LocalEngine(nothing, jobs=1).threads(8) == cores
    assert LocalEngine(nothing, threads=3).threads(8) == 3


@pytest.mark.parametrize("given", [{"jobs": 0}, {"threads": -1}])
def test_numbers_below_one(given):
    ((name, value),) = given.items()
    with pytest.raises(SleaveError, match=rf"`--{name}` \(= {value}\) must be at least 1"):
        LocalEngine(nothing, **given)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waited for counts."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait_for(happened, seconds=30):
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def began(task: Task) -> int:
    """The id of its process, as soon as it tells."""
    wait_for(lambda: (task.out / "began").is_file() and (task.out / "began").read_text())
    return int((task.out / "began").read_text())


def test_closed_it_asks_all_to_stop_and_waits(pretend, tmp_path, capsys):
    waiting = [make_task(tmp_path, f"waits/{n}") for n in range(2)]
    running = LocalEngine(nothing, jobs=3).run([*waiting, make_task(tmp_path, "fine")], ignore)
    next(running)
    processes = [began(task) for task in waiting]
    running.close()
    assert all((task.out / "stopped").is_file() for task in waiting)
    assert all(map(gone, processes))
    assert "Stopping 2 runs, which save what they have" in capsys.readouterr().err


def test_a_second_signal_kills(pretend, tmp_path):
    task = make_task(tmp_path, "ignores")

    def interrupt(number, frame):
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGALRM, interrupt)
    try:
        running = LocalEngine(nothing, jobs=2).run([task, make_task(tmp_path, "fine")], ignore)
        next(running)
        process = began(task)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            running.close()
    finally:
        signal.signal(signal.SIGALRM, former)
    wait_for(lambda: gone(process), 5)


CALLER = """
import sys
sys.path[:] = {path!r}
from pathlib import Path
import test_local as t
t.local.PROGRAM = t.PRETEND
list(t.LocalEngine(t.nothing).run([t.make_task(Path({folder!r}), "waits")], t.ignore))
"""


@pytest.mark.slow
def test_when_the_caller_is_killed_its_workers_stop(tmp_path):
    path = [str(Path(__file__).parent), *sys.path]
    caller = subprocess.Popen([sys.executable, "-c", CALLER.format(path=path, folder=str(tmp_path))])
    process = began(make_task(tmp_path, "waits"))
    caller.kill()
    caller.wait()
    wait_for(lambda: gone(process))
    assert (tmp_path / "waits" / "stopped").is_file()
