"""What the user sees while work goes on: a bar with time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sleave.base.launch import silent

PLAIN_SECONDS = 10.0  # between lines where there is no terminal to redraw
Advance = Callable[[float, str], None]


def console() -> Console:
    """Where messages and tables go: standard error, so that standard output stays for results."""
    return Console(stderr=True, highlight=False, quiet=silent())


def say(message: str) -> None:
    """Print one line for the user, as it is (no markup is read in it)."""
    console().print(message, markup=False, soft_wrap=True)


@contextmanager
def progress(title: str, total: float, unit: str, done: float = 0) -> Iterator[Advance]:
    """A progress bar; yields `advance(amount, note)`, to be called as work gets done.

    Args:
        title: what is being done, in a few words.
        total: the amount of work, in `unit`s.
        unit: what is counted ("steps", "tokens").
        done: what an earlier run had already done; time left is judged by this run's pace alone.
    """
    if console().is_terminal:
        with _bar(title, total, unit, done) as advance:
            yield advance
    else:
        yield _plain(title, total, unit, done)


@contextmanager
def _bar(title: str, total: float, unit: str, done: float) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console()) as bar:
        task = bar.add_task(title, total=total, completed=int(done), unit=unit, note="")

        def advance(amount: float, note: str = "") -> None:
            bar.update(task, advance=amount, note=note)

        yield advance


def _plain(title: str, total: float, unit: str, done: float) -> Advance:
    began = last = time.monotonic()
    first = now_done = done
    over = False

    def advance(amount: float, note: str = "") -> None:
        nonlocal last, now_done, over
        now_done += amount
        now = time.monotonic()
        finished = now_done >= total and not over
        over = over or finished
        if (finished or now - last >= PLAIN_SECONDS) and not silent():
            last = now
            pace = (now_done - first) / max(now - began, 1e-9)
            left = max(total - now_done, 0) / max(pace, 1e-9)
            spent = f"{now - began:.0f} s" if finished else f"{now - began:.0f} s, about {left:.0f} s left"
            line = f"{title}: {now_done:,.0f}/{total:,.0f} {unit} ({spent}) {note}"
            print(line.rstrip(), file=sys.stderr, flush=True)

    return advance
