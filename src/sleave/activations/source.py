"""What training draws from: shuffled, scaled batches of one layer's activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sleave.activations.buffer import RollingBuffer, StoredIds
from sleave.activations.scaling import Scaling, ScalingKind
from sleave.activations.store import Store
from sleave.base.errors import SleaveError
from sleave.base.ranks import ALONE, Ranks


@runtime_checkable
class ActivationSource(Protocol):
    """An endless, resumable sequence of training batches, and the held-out rows to judge by."""

    @property
    def d_in(self) -> int:
        """Width of the activations."""

    @property
    def scaling(self) -> Scaling:
        """The map from raw activations to the batches."""

    @property
    def metadata(self) -> dict[str, Any]:
        """The model, hook point and text, in the words of SAELens's cfg.json."""

    @property
    def num_train_rows(self) -> int | None:
        """Number of different training rows; None when they are made as they are needed."""

    def next_batch(self, ranks: Ranks = ALONE, parts: int = 1) -> Float[Tensor, "batch d_in"]:
        """The next training batch, or a rank's share of it (`Ranks.share`): float32, scaled."""

    def sample(self, n: int) -> Float[Tensor, "n d_in"]:
        """Training rows, float32 and scaled, the same at every call; the sequence of batches is not disturbed."""

    def heldout(self, batch_size: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """All held-out rows in order, float32 and *raw* (not scaled); the last batch may be shorter."""

    def state(self) -> dict[str, Tensor]:
        """All that the next batches depend on."""

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was taken; the batches from there on are bit-identical."""

    def close(self) -> None:
        """Stop whatever goes on in the background; the source can still be used."""


class StoredSource:
    """Batches from one layer of a store (an `ActivationSource`), on the CPU.

    A store that has fewer training rows than the buffer is buffered whole: the buffer is then as large as the store
    and is refreshed as soon as no whole batch is left in it, or after `refresh_batches` if that is sooner.
    """

    def __init__(
        self,
        store: Store,
        layer: int,
        scaling_kind: ScalingKind,
        batch_size: int,
        buffer_rows: int,
        refresh_batches: int,
        seed: int,
    ) -> None:
        """Open one layer for training.

        Args:
            store: the activations.
            layer: which of its layers.
            scaling_kind: how to scale; the statistics are those of all training rows.
            batch_size: rows in a batch.
            buffer_rows: rows that the shuffle buffer spans.
            refresh_batches: batches between two refreshes of the buffer.
            seed: of everything random here.

        Raises:
            SleaveError: the layer is not there, the store has fewer training rows than a batch, more rows would be
                drawn between refreshes than the buffer spans, or all rows are zero.
        """
        self._train = store.layer(layer)
        self._heldout = store.layer(layer, "heldout")
        self.num_train_rows = len(self._train)
        if self.num_train_rows < batch_size:
            raise SleaveError(
                f"The activation store `{store.path}` has {self.num_train_rows} training rows, fewer than one batch "
                f"(= {batch_size} rows). Lower buffer.batch_contexts (a batch is so many times harvest.context_length "
                "rows), or harvest more text."
            )
        if self.num_train_rows < buffer_rows:
            buffer_rows = self.num_train_rows
            refresh_batches = min(refresh_batches, buffer_rows // batch_size)
        self.d_in = store.d_in
        self.scaling = Scaling.from_moments(self._train.moments(), scaling_kind)
        self.metadata = {**store.model, "hook_name": f"blocks.{layer}.hook_resid_post", "hook_layer": layer}
        self._seed = seed
        self._buffer = RollingBuffer(
            StoredIds(self._train.boundaries, seed), buffer_rows, refresh_batches, batch_size, seed
        )

    def next_batch(self, ranks: Ranks = ALONE, parts: int = 1) -> Float[Tensor, "batch d_in"]:
        """The next training batch, or a rank's share of it (`Ranks.share`): float32, scaled.

        Raises:
            SleaveError: a row is not finite, so the store was altered since it was made; or a batch cannot be shared
                out evenly.
        """
        ids = self._buffer.next_batch()
        return self._scaled(ids[ranks.share(len(ids), parts)])

    def sample(self, n: int) -> Float[Tensor, "n d_in"]:
        """n training rows, float32 and scaled: the same at every call, all different unless n > `num_train_rows`."""
        # numpy draws a few of many without a permutation of all of them, which may not fit in memory.
        draw = np.random.default_rng(self._seed)
        ids = draw.choice(self.num_train_rows, n, replace=n > self.num_train_rows)
        return self._scaled(torch.from_numpy(ids))

    def heldout(self, batch_size: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """All held-out rows in order, float32 and *raw* (not scaled); the last batch may be shorter."""
        return (block.float() for block in self._heldout.blocks(batch_size))

    def state(self) -> dict[str, Tensor]:
        """All that the next batches depend on."""
        return self._buffer.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was taken; the batches from there on are bit-identical."""
        self._buffer.restore(state)

    def _scaled(self, ids: Int64[Tensor, " n"]) -> Float[Tensor, "n d_in"]:
        x = self._train.rows(ids).float()
        if not (finite := x.isfinite().all(dim=1)).all():
            raise SleaveError(
                f"Layer {self._train.layer} of `{self._train.store.path}` has NaN or infinite activations in training "
                f"row {int(ids[~finite][0])} ({int((~finite).sum())} of {len(ids)} rows drawn). The store was altered: "
                "run the same `sleave harvest` command again to mend it."
            )
        return self.scaling.apply(x)

    def close(self) -> None:
        """Nothing goes on in the background."""
