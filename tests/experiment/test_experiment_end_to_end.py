"""The command on a grid of two tiny runs: unbroken, killed, stopped and resumed, here and on Ray: the same weights."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from grids import finish, make_experiment, start
from toy_run import metrics, weights

from sleave.base.files import load_tensors
from sleave.experiment.state import last_step
from sleave.training.run import RunDirectory

pytestmark = pytest.mark.slow

STEPS = 600
NAMES = ["none/layer_03/seed_5", "selective/layer_03/seed_5"]
LOCAL = ("--jobs", "2", "--threads", "1")
RAY = ("--engine", "ray", "--threads", "1")
with_ray = pytest.param(RAY, marks=pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed"))
on_both = pytest.mark.parametrize("engine", [LOCAL, with_ray], ids=["local", "ray"])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    return make_experiment(folder, training={"steps": STEPS, "checkpoint_every": 100_000})


@pytest.fixture(scope="module")
def unbroken(file) -> Path:
    said = finish(start(file, file.parent / "unbroken", *LOCAL))
    assert "2 of 2 runs finished" in said
    return file.parent / "unbroken"


def steps(out: Path) -> list[int]:
    return [last_step(RunDirectory(out / name)) for name in NAMES]


def wait_for(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def workers(out: Path) -> dict[str, int]:
    """The process of each run: the one that prints to its log."""
    logs = {str(out / "logs" / f"{name}.log"): name for name in NAMES}
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (name := logs.get(os.readlink(process / "fd" / "1"))) is not None:
                found[name] = int(process.name)
    return found


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def saved_step(run: Path) -> int:
    return json.loads(load_tensors(run / "checkpoint.safetensors")[1]["state"])["step"]


def statuses(out: Path) -> list[str]:
    cells = json.loads((out / "experiment.json").read_text())["cells"]
    return [cells[name]["status"] for name in NAMES]


def assert_same(out: Path, unbroken: Path) -> None:
    assert statuses(out) == ["finished", "finished"]
    for name in NAMES:
        assert weights(out / name) == weights(unbroken / name)
        assert metrics(out / name) == metrics(unbroken / name)
    assert {p.relative_to(out) for p in out.rglob("*")} == {p.relative_to(unbroken) for p in unbroken.rglob("*")}


def wait_until_gone(processes: Iterable[int]) -> None:
    deadline = time.monotonic() + 60
    while not all(map(gone, processes)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@on_both
def test_stopped_and_resumed(engine, file, unbroken, tmp_path):
    out = tmp_path / "out"
    process = start(file, out, *engine)
    wait_for(process, lambda: max(steps(out)) >= 20)
    processes = workers(out)
    process.terminate()
    assert "Traceback" not in finish(process, 143)
    assert_saved_and_goes_on(file, out, engine, unbroken, processes)


def test_killed_and_resumed(file, unbroken, tmp_path):
    """Nobody is left to wait for the workers, but they save and end."""
    out = tmp_path / "out"
    process = start(file, out, *LOCAL)
    wait_for(process, lambda: max(steps(out)) >= 20)
    processes = workers(out)
    process.kill()
    finish(process, -signal.SIGKILL)
    assert_saved_and_goes_on(file, out, LOCAL, unbroken, processes)


def assert_saved_and_goes_on(
    file: Path, out: Path, engine: Sequence[str], unbroken: Path, processes: Mapping[str, int]
) -> None:
    """Nothing but being asked to stop makes a checkpoint before the last step."""
    wait_until_gone(processes.values())
    broken_off = [name for name, step in zip(NAMES, steps(out), strict=True) if 0 < step < STEPS]
    assert broken_off
    assert processes.keys() >= set(broken_off)
    assert [saved_step(out / name) for name in broken_off] == [
        last_step(RunDirectory(out / name)) for name in broken_off
    ]
    assert "missing" in statuses(out)
    finish(start(file, out, *engine))
    assert all("Going on at step" in (out / "logs" / f"{name}.log").read_text() for name in broken_off)
    assert_same(out, unbroken)


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_a_cluster_that_is_killed_goes_on(file, unbroken, tmp_path):
    out = tmp_path / "out"
    process = start(file, out, *RAY)
    wait_for(process, lambda: max(steps(out)) >= 20)
    processes = workers(out)
    process.kill()
    finish(process, -signal.SIGKILL)
    wait_until_gone(processes.values())
    finish(start(file, out, *RAY))
    assert_same(out, unbroken)


@on_both
def test_a_killed_worker_stops_no_other_and_goes_on(engine, file, unbroken, tmp_path):
    out = tmp_path / "out"
    process = start(file, out, *engine)
    wait_for(process, lambda: steps(out)[0] >= 1)
    os.kill(workers(out)[NAMES[0]], signal.SIGKILL)
    said = finish(process, 2)
    assert "1 of 2 runs failed. The same command tries them again." in said
    assert f"{NAMES[0]}: Its process" in said
    assert "The same command goes on from its last checkpoint." in said
    assert statuses(out) == ["failed", "finished"]
    assert (out / "report.html").is_file()
    finish(start(file, out, *engine))
    assert_same(out, unbroken)


def test_without_ray(file, tmp_path):
    """Stands for a machine without it, be it here or not."""
    program = "import sys; sys.modules['ray'] = None; from sleave.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", program, "experiment", str(file), "--out", str(tmp_path / "out"), *RAY]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "sleave experiment: Ray is not installed: pip install 'sleave[ray]'.\n"


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_a_cluster_that_does_not_answer(file, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"  # bound and not listening: whoever connects is refused
        said = finish(start(file, tmp_path / "out", *RAY, "--ray-address", address), 2)
    assert f"There is no Ray cluster at `{address}`" in said
    assert "Give the address that `ray status` shows" in said
