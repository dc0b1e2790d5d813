"""Reading the next entries while the last ones are trained on."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait

import torch
from torch import Tensor

from sleave.activations.buffer import RowStream


class ReadAhead:
    """A `RowStream` that reads on, on a thread of its own, as soon as entries are handed out.

    What comes out, and where the stream is said to be, is as if nothing had been read ahead.
    """

    def __init__(self, stream: RowStream, ahead: int, at_once: int) -> None:
        """Set up; nothing is read yet.

        Args:
            stream: where entries come from; no one else may touch it, unless after `settle`.
            ahead: how many to read ahead. To be asked for another number is slower, since what was read is let go.
            at_once: how many of them to read between two looks at whether they are still wanted.
        """
        self._stream = stream
        self._ahead = ahead
        self._at_once = at_once
        self._thread = ThreadPoolExecutor(1, "reading ahead")
        self._coming: Future[Tensor] | None = None
        self._before: dict[str, Tensor] = {}  # where the stream was when `_coming` began
        self._wanted = True

    def read(self, n: int) -> Tensor:
        """The next n entries; what went wrong while they were read ahead is raised here."""
        if self._coming is not None and n == self._ahead:
            entries = self._coming.result()
            self._coming = None
        else:
            self.settle()
            entries = self._stream.read(n)
        self._before = self._stream.state()
        self._coming = self._thread.submit(self._read_on)
        return entries

    def state(self) -> dict[str, Tensor]:
        """Behind the last entry that was handed out."""
        return self._stream.state() if self._coming is None else dict(self._before)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was taken."""
        self.settle()
        self._stream.restore(state)

    def settle(self) -> None:
        """Let go of what was read ahead: the stream is where it is said to be, and at rest."""
        if self._coming is not None:
            self._wanted = False
            wait([self._coming])
            self._wanted, self._coming = True, None
            self._stream.restore(self._before)

    def _read_on(self) -> Tensor:
        parts, left = [], self._ahead
        while left and self._wanted:
            parts.append(self._stream.read(min(left, self._at_once)))
            left -= len(parts[-1])
        return torch.cat(parts)
