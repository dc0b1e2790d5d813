"""Ctrl-C and SIGTERM asked for, not suffered: the loop finishes its step, saves, and then stops."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from sleave.base.launch import launched_together
from sleave.base.progress import say


class Interrupted(BaseException):
    """A run that stopped because it was asked to, after saving.

    Attributes:
        signal_number: which signal asked; the exit status is 128 more.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class StopRequest:
    """The signal that asked to stop, if one did."""

    signal_number: int | None = None


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Within the block, SIGINT and SIGTERM only set the request; a second one acts as it always does.

    But not where there are several processes: each may get one from the terminal and another from `torchrun`.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        request.signal_number = number
        if launched_together():
            return
        _set_all(former)
        say("\nStopping after this step, and saving; once more stops at once, without saving.")

    def _set_all(handlers: Mapping[signal.Signals, Any]) -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    _set_all(dict.fromkeys(former, ask))
    try:
        yield request
    finally:
        _set_all(former)


@contextmanager
def raised_on_sigterm(message: str) -> Iterator[None]:
    """Within the block, SIGTERM raises `Interrupted` wherever it comes, as Ctrl-C raises KeyboardInterrupt."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        raise Interrupted(number, message)

    former = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)
