"""What a result was made with: versions and machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

import torch

PACKAGES = ("sleave", "torch", "numpy", "transformers", "safetensors")
PROC, GROUPS = Path("/proc/self"), Path("/sys/fs/cgroup")
GROUP_FILES = {  # by controllers: where groups are, their limit, their use, and what counts of files begin with
    "": ("", "memory.max", "memory.current", ""),
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}


def environment() -> dict[str, Any]:
    """Versions of what computes, the processor, its threads, and the commit if sleave runs from a checkout."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def peak_memory() -> int:
    """The most memory this process has held so far, in bytes: of the GPU if one is used, of the machine otherwise."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    return peak_resident()


def peak_resident() -> int:
    """The most of the machine's memory that this process has held so far, in bytes; 0 where nothing tells."""
    if (peak := process_memory("VmHWM")) is not None:  # what the system tells of usage begins at the caller's peak
        return peak
    if sys.platform == "win32":  # no such figure without another dependency
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def process_memory(what: str, process: int | str = "self") -> int | None:
    """A figure of a process in bytes, by Linux's name for it: "VmHWM", "RssAnon"; None where that is not told."""
    return _kilobytes(Path(f"/proc/{process}/status"), what)


def free_memory() -> int:
    """How much memory this process has left for use, in bytes, on its machine and within the limits of its control
    groups (a container's): what the system would give up counts, where it tells that."""
    free = _kilobytes(Path("/proc/meminfo"), "MemAvailable")
    return min([free or _installed_memory(), *(limit - used for limit, used in _group_limits())])


def total_memory() -> int:
    """How much memory this process could use if no other ran, in bytes: it is the same at any time."""
    return min([_installed_memory(), *(limit for limit, _ in _group_limits())])


def _installed_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _kilobytes(file: Path, name: str) -> int | None:
    try:
        lines = file.read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration):
        return None


def _group_limits() -> list[tuple[int, int]]:
    """Limit and use, without the files that it would give up, of each control group that this process is in."""
    try:
        lines = (PROC / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers in GROUP_FILES:
            mount, limit, used, files = GROUP_FILES[controllers]
            group = PurePosixPath(path.lstrip("/"))
            for folder in (GROUPS / mount / one for one in (group, *group.parents)):  # a container may see only its top
                with suppress(OSError, ValueError):  # no such group here, or no limit ("max")
                    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                    cached = sum(int(stat.get(f"{files}{state}_file", 0)) for state in ("active", "inactive"))
                    held = int((folder / used).read_text()) - cached
                    found.append((int((folder / limit).read_text()), held))
    return found


def num_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cores = f"{os.cpu_count()} cores"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {cores}"


def _commit() -> str | None:
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
