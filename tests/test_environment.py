"""What is told of this process and its machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sleave.base import environment
from sleave.base.environment import free_memory, num_cores, peak_resident, process_memory, total_memory

MB = 1_000_000
on_linux = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no such figures there")
WORKER = "from sleave.base.environment import peak_resident; print(peak_resident())"


@on_linux
def test_the_peak_is_of_this_process_alone_and_not_of_its_caller():
    held = np.ones(1500 * MB, dtype=np.uint8)
    assert peak_resident() > held.nbytes
    worker = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, check=True)
    assert 10 * MB < int(worker.stdout) < 1000 * MB


@on_linux
def test_memory_of_a_process():
    before = process_memory("RssAnon")
    held = np.ones(200 * MB, dtype=np.uint8)
    now = process_memory("RssAnon", os.getpid())
    assert now - before == pytest.approx(held.nbytes, rel=0.1)
    assert process_memory("RssAnon", 2**31 - 1) is None


def test_memory_of_the_machine():
    assert 50 * MB < free_memory() <= total_memory()
    assert num_cores() >= 1


def group(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


@pytest.fixture
def groups(tmp_path, monkeypatch) -> Path:
    """In the place of the system's folder of control groups; the process is in `a/b` by both versions."""
    (tmp_path / "cgroup").write_text("4:memory:/a/b\n3:cpu,cpuacct:/\n0::/a/b\n")
    monkeypatch.setattr(environment, "PROC", tmp_path)
    monkeypatch.setattr(environment, "GROUPS", tmp_path / "groups")
    return tmp_path / "groups"


def test_no_control_groups(groups, tmp_path):
    assert free_memory() > 50 * MB
    (tmp_path / "cgroup").unlink()
    assert free_memory() > 50 * MB


def test_the_least_that_a_control_group_has_left(groups):
    """Files that it caches count as free; a group without a limit has none."""
    stat = "anon 1\nactive_file 1000\ninactive_file 2000\n"
    group(groups / "a/b", {"memory.max": "max\n", "memory.current": "9000\n", "memory.stat": stat})
    assert free_memory() > 50 * MB
    group(groups / "a", {"memory.max": "30000\n", "memory.current": "10000\n", "memory.stat": stat})
    assert (free_memory(), total_memory()) == (23_000, 30_000)


def test_control_groups_of_the_first_version(groups):
    """A container sees its own group at the top."""
    stat = "active_file 7\ntotal_active_file 1000\ntotal_inactive_file 2000\n"
    files = {"memory.limit_in_bytes": "40000\n", "memory.usage_in_bytes": "10000\n", "memory.stat": stat}
    group(groups / "memory", files)
    assert (free_memory(), total_memory()) == (33_000, 40_000)
