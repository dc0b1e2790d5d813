"""Runs side by side as a page to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sleave.base.files import write_text
from sleave.jobs.runs import runs_in
from sleave.report.overview import overview
from sleave.report.reading import read_runs


def report(runs: Sequence[str | Path], out: str | Path = "report.html") -> Path:
    """Write one HTML page about runs; it needs nothing else, and only files of the runs are read for it.

    Args:
        runs: run directories, or folders of them.
        out: the page; what was there before is replaced.

    Raises:
        SleaveError: there is no run, a run's files are damaged, or the page cannot be written.
    """
    read = read_runs([run for path in runs for run in runs_in(path)])
    write_text(Path(out), overview(read))
    return Path(out)
