"""A rolling shuffle buffer: batches drawn at random from a window that slides over an endless stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from sleave.base.errors import SleaveError

STREAM = "stream."  # prefix of the stream's part of the state


@runtime_checkable
class RowStream(Protocol):
    """An endless sequence of entries that can be put back to any earlier moment."""

    def read(self, n: int) -> Tensor:
        """The next n entries: (n, ...), a tensor that the caller may write to."""

    def state(self) -> dict[str, Tensor]:
        """Where the stream is."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was taken."""


class RollingBuffer:
    """Batches drawn without replacement from `capacity` entries, of which the used ones are replaced now and then.

    After `refresh_batches` batches, the entries that these handed out give way to the stream's next ones. The first
    batch fills the buffer. Entries are anything along dimension 0: row ids of a store, or rows themselves.

    Reference: "rolling buffer of 2048 contexts refreshed every 24 batches" (selective orthogonality, section 4).
    """

    def __init__(self, stream: RowStream, capacity: int, refresh_batches: int, batch_size: int, seed: int) -> None:
        """Set up an empty buffer.

        Args:
            stream: where entries come from.
            capacity: entries in the buffer.
            refresh_batches: batches between two refreshes.
            batch_size: entries in a batch.
            seed: of the draws.

        Raises:
            SleaveError: more entries would be drawn between refreshes than there are.
        """
        if refresh_batches * batch_size > capacity:
            raise SleaveError(
                f"`refresh_batches` (= {refresh_batches}) x batch size (= {batch_size} rows) must be at most the "
                f"buffer (= {capacity} rows). Refresh sooner, enlarge the buffer or make batches smaller."
            )
        self._stream = stream
        self._capacity = capacity
        self._batch_size = batch_size
        self._draws = refresh_batches * batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._entries: Tensor | None = None
        self._order = torch.empty(0, dtype=torch.int64)  # places in the buffer, in the order they are handed out
        self._next = 0  # place in the order

    def next_batch(self) -> Tensor:
        """Draw a batch: (batch_size, ...), a copy."""
        if self._next == len(self._order):
            self._refresh()
        assert self._entries is not None
        places = self._order[self._next : self._next + self._batch_size]
        self._next += self._batch_size
        return self._entries[places]

    def state(self) -> dict[str, Tensor]:
        """All that the next batches depend on, as tensors."""
        state = {f"{STREAM}{name}": value for name, value in self._stream.state().items()}
        state |= {
            "generator": self._generator.get_state(),
            "order": self._order.clone(),
            "next": torch.tensor(self._next),
        }
        if self._entries is not None:
            state["entries"] = self._entries.clone()
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was taken; the batches from there on are bit-identical."""
        self._stream.restore({name.removeprefix(STREAM): t for name, t in state.items() if name.startswith(STREAM)})
        self._generator.set_state(state["generator"])
        self._order = state["order"].clone()
        self._next = int(state["next"])
        self._entries = state["entries"].clone() if "entries" in state else None

    def _refresh(self) -> None:
        if self._entries is None:
            self._entries = self._stream.read(self._capacity)
        else:
            self._entries[self._order] = self._stream.read(self._draws)
        self._order = torch.randperm(self._capacity, generator=self._generator)[: self._draws].clone()
        self._next = 0


class StoredIds:
    """A stream of the row ids of a store, epoch after epoch: chunks in a shuffled order, each read from end to end.

    The buffer shuffles within its window; reading chunks in sequence keeps the rows of a window close on the disk.
    """

    def __init__(self, boundaries: Sequence[int], seed: int) -> None:
        """Start at the first epoch.

        Args:
            boundaries: (chunks + 1,) row offsets of the chunks, from 0 to the number of rows (at least 1).
            seed: of the order of the chunks, which is another one in every epoch.
        """
        self._boundaries = np.asarray(boundaries)
        self._seed = seed
        self._begin(epoch=0, position=0)

    def read(self, n: int) -> Int64[Tensor, " n"]:
        """The next n row ids."""
        parts = []
        while n > 0:
            place = int(np.searchsorted(self._ends, self._position, side="right"))
            take = min(n, int(self._ends[place]) - self._position)
            first = int(self._boundaries[self._order[place] + 1]) - (int(self._ends[place]) - self._position)
            parts.append(torch.arange(first, first + take))
            self._position += take
            n -= take
            if self._position == self._boundaries[-1]:
                self._begin(self._epoch + 1, position=0)
        return torch.cat(parts)

    def state(self) -> dict[str, Tensor]:
        """The epoch and the number of rows already read in it."""
        return {"epoch": torch.tensor(self._epoch), "position": torch.tensor(self._position)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was taken."""
        self._begin(int(state["epoch"]), int(state["position"]))

    def _begin(self, epoch: int, position: int) -> None:
        self._epoch = epoch
        self._position = position
        self._order = np.random.default_rng((self._seed, epoch)).permutation(len(self._boundaries) - 1)
        self._ends = np.cumsum(np.diff(self._boundaries)[self._order])
