"""Kernels are compiled by one process, for all that start at the same moment."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = """
import sys, time
from pathlib import Path
import torch
from sleave.codes import kernels
from sleave.codes.compiled import compiled

folder, name, dtype = Path(sys.argv[1]), sys.argv[2], getattr(torch, sys.argv[3])
acts = torch.tensor([[0, 2, 0, 4], [1, 0, 0, 0]], dtype=dtype)
(folder / name).touch()
while not (folder / "go").exists():
    time.sleep(0.001)
start, feature, value = compiled(kernels.compress, acts)
assert start.tolist() == [0, 2, 3] and feature.tolist() == [1, 3, 0]
assert value.dtype == dtype and value.tolist() == [2, 4, 1]
print(sum(kernels.compress.stats.cache_misses.values()))
"""


def _compilations(folder: Path, *dtypes: str) -> list[int]:
    """How often processes that call a kernel at the same moment, each for codes of a dtype, compile it."""
    folder.mkdir(exist_ok=True)
    (folder / "go").unlink(missing_ok=True)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WORKER, str(folder)]
    started = [
        subprocess.Popen([*command, f"ready_{n}", dtype], env=environment, stdout=subprocess.PIPE, text=True)
        for n, dtype in enumerate(dtypes)
    ]
    deadline = time.monotonic() + 120
    while not all((folder / f"ready_{n}").exists() for n in range(len(dtypes))) and time.monotonic() < deadline:
        time.sleep(0.01)
    (folder / "go").touch()
    said = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(started)
    return [int(text) for text in said]


@pytest.mark.slow
def test_processes_that_start_together_compile_once(tmp_path: Path) -> None:
    assert sorted(_compilations(tmp_path / "alike", "float32", "float32")) == [0, 1]
    assert _compilations(tmp_path / "other", "float32", "float64") == [1, 1]
    assert _compilations(tmp_path / "other", "float32", "float64") == [0, 0]  # and the cache has both
