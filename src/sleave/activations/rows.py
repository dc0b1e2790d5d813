"""Raw activations to be looked at, read as often as wanted, and where each row comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sleave.activations.manifest import Split
from sleave.activations.store import Store
from sleave.base.errors import SleaveError


@dataclass(frozen=True, eq=False)
class Origin:
    """Which token each row is.

    Attributes:
        token: token ids.
        document: the number of its document; rows of one document follow each other.
        position: its place in the sequence that the model read; it ascends within a context.
    """

    token: Int[Tensor, " rows"]
    document: Int[Tensor, " rows"]
    position: Int[Tensor, " rows"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Raw activations (rows, d_in).

    Attributes:
        count: how many rows.
        d_in: their width.
        blocks: gives them in order, so many at a time, anew each time it is called.
        origin: which token each is, if that is known.
    """

    count: int
    d_in: int
    blocks: Callable[[int], Iterator[Tensor]]
    origin: Origin | None = None

    @staticmethod
    def of(x: Float[Tensor, "rows d_in"], origin: Origin | None = None) -> Rows:
        """Rows that are in memory."""
        return Rows(len(x), x.shape[1], lambda size: iter(x.split(size)), origin)

    @staticmethod
    def of_store(store: Store, layer: int, splits: Sequence[Split], most: int) -> Rows:
        """The first rows of a store, of one split after the other. Its documents are in shuffled order.

        Args:
            store: the store.
            layer: the layer.
            splits: `train`, `heldout` or both.
            most: how many rows at most.

        Raises:
            SleaveError: the layer is not in the store, or there are no rows.
        """
        counts: list[int] = []
        for split in splits:
            counts.append(min(store.num_rows(split), most - sum(counts)))
        if sum(counts) == 0:
            raise SleaveError(f"The activation store `{store.path}` has no rows of {' or '.join(splits)}.")
        parts = [store.layer(layer, split) for split in splits]

        def blocks(size: int) -> Iterator[Tensor]:
            for part, count in zip(parts, counts, strict=True):
                for start in range(0, count, size):
                    yield part.rows(torch.arange(start, min(start + size, count))).float()

        def column(name: str) -> Tensor:
            columns = [getattr(store.tokens(split), name) for split in splits]
            return torch.cat([c.rows(torch.arange(n)) for c, n in zip(columns, counts, strict=True)])

        origin = Origin(column("token"), column("document"), column("position"))
        return Rows(sum(counts), store.d_in, blocks, origin)
