"""The live mode: the language model feeds the shuffle buffer while the autoencoder trains; nothing goes to disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.activations.ahead import ReadAhead
from sleave.activations.buffer import RollingBuffer
from sleave.activations.scaling import Moments, Scaling
from sleave.activations.settings import BufferSettings
from sleave.base.errors import SleaveError
from sleave.base.progress import progress, say
from sleave.base.ranks import ALONE, Ranks
from sleave.language.corpora import read_corpora
from sleave.language.model import HookedModel
from sleave.language.reading import Item, items, metadata, norm_limits, not_massive, read
from sleave.language.settings import CorpusSettings, HarvestSettings, ModelSettings

FIRST_ROWS = 32_768  # training rows from which scaling and norm limits are estimated, once
GROUP_ROWS = 16_384  # rows read at a time, so that contexts of like length can be batched


class LiveRows:
    """A `RowStream` of one side of the split: an endless reading of the text, document after document."""

    def __init__(
        self,
        model: HookedModel,
        layer: int,
        corpora: Sequence[CorpusSettings],
        settings: HarvestSettings,
        heldout: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self._model = model
        self._layer = layer
        self._corpora = corpora
        self._settings = settings
        self._heldout = heldout
        self._ranks = ranks
        self.limits: dict[int, float] | None = None
        self._pending = torch.empty(0, model.d_in)
        self._go_to(0)

    def read(self, n: int) -> Float[Tensor, "n d_in"]:
        """The next n rows, raw, in the model's dtype.

        Raises:
            SleaveError: the text has no rows on this side of the split.
        """
        parts, rows = [self._pending], len(self._pending)
        long = n - rows > GROUP_ROWS
        with progress("Reading", n, "tokens", rows) if long else nullcontext(lambda *_: None) as advance:
            while rows < n:
                if group := self._group():
                    self._document = group[-1].number + 1
                    parts.append(self._rows(group))
                    rows += len(parts[-1])
                    advance(len(parts[-1]), "")
                elif self._document == 0:
                    raise SleaveError("The text gives no training rows; give more, or loosen harvest.min_tokens.")
                else:
                    self._go_to(0)  # the text begins again
        joined = torch.cat([p for p in parts if len(p)])  # an empty part may have another dtype
        parts.clear()
        self._pending = joined[n:].clone()  # of its own, so that the rest of `joined` is let go
        return joined[:n].clone()

    def once(self) -> Iterator[Float[Tensor, "rows d_in"]]:
        """All rows of one reading of the text, group by group."""
        self._go_to(0)
        while group := self._group():
            yield self._rows(group)

    def state(self) -> dict[str, Tensor]:
        """Where in the text it is, and the rows that were read ahead."""
        return {"document": torch.tensor(self._document), "pending": self._pending}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was taken."""
        self._go_to(int(state["document"]))
        self._pending = state["pending"]

    def _go_to(self, document: int) -> None:
        self._document = document
        documents = read_corpora(self._corpora, self._settings.seed)
        self._items = items(documents, self._model, self._settings, document)

    def _group(self) -> list[Item]:
        group: list[Item] = []
        rows = 0
        for item in self._items:
            if item.heldout == self._heldout and item.rows:
                group.append(item)
                rows += item.rows
                if rows >= GROUP_ROWS:
                    break
        return group

    def _rows(self, group: list[Item]) -> Tensor:
        sequences = list(chain.from_iterable(i.contexts for i in group))
        rows = read(self._model, sequences, self._settings.batch_tokens, ranks=self._ranks)
        return rows[self._layer][not_massive(rows, self.limits)]


class LiveSource:
    """Batches straight from the language model (an `ActivationSource`), which ranks read together.

    With `read_ahead` it reads while training goes on, which pays where the two compute on different devices.
    """

    def __init__(
        self,
        model: ModelSettings,
        corpora: Sequence[CorpusSettings],
        settings: HarvestSettings,
        buffer: BufferSettings,
        layer: int,
        seed: int,
        ranks: Ranks = ALONE,
        read_ahead: bool = False,
    ) -> None:
        rows = settings.context_length
        say(f"Loading {model.name}")
        hooked = HookedModel.load(model.model_copy(update={"layers": (layer,)}))
        say(
            f"No store is named: activations come straight from the model. It reads {FIRST_ROWS:,} rows (tokens) for "
            f"the scaling, then {buffer.buffer_contexts * rows:,} to fill the shuffle buffer."
        )
        self.d_in = hooked.d_in
        self._layer = layer
        self.num_train_rows: int | None = None
        self.metadata: dict[str, Any] = {
            **metadata(hooked, corpora, settings),
            "hook_name": f"blocks.{layer}.hook_resid_post",
            "hook_layer": layer,
        }
        self._train = LiveRows(hooked, layer, corpora, settings, ranks=ranks)
        self._heldout = LiveRows(hooked, layer, corpora, settings, heldout=True, ranks=ranks)
        first = self._train.read(FIRST_ROWS)
        limits = norm_limits({layer: first}, settings)
        self._train.limits = self._heldout.limits = limits
        self._first = first[not_massive({layer: first}, limits)]
        moments = Moments.empty(self.d_in)
        moments.update(self._first)
        self.scaling = Scaling.from_moments(moments, buffer.scaling)
        self._train.restore({"document": torch.tensor(0), "pending": first[:0]})  # training begins at the beginning
        batch = buffer.batch_contexts * rows
        self._ahead = ReadAhead(self._train, buffer.refresh_batches * batch, GROUP_ROWS) if read_ahead else None
        self._buffer = RollingBuffer(
            self._ahead or self._train, buffer.buffer_contexts * rows, buffer.refresh_batches, batch, seed
        )

    def next_batch(self, ranks: Ranks = ALONE, parts: int = 1) -> Float[Tensor, "batch d_in"]:
        """The next training batch, or a rank's share of it: float32, scaled."""
        rows = self._buffer.next_batch()
        return self.scaling.apply(rows[ranks.share(len(rows), parts)].float())

    def sample(self, n: int) -> Float[Tensor, "n d_in"]:
        """Training rows, float32 and scaled, the same at every call; at most those that were read first."""
        return self.scaling.apply(self._first[:n].float())

    def heldout(self, batch_size: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Held-out rows, float32 and raw."""
        self.close()  # the model does one thing at a time
        for rows in self._heldout.once():
            yield from rows.float().split(batch_size)

    def close(self) -> None:
        """Read no further ahead, until the next batch is asked for."""
        if self._ahead is not None:
            self._ahead.settle()

    def state(self) -> dict[str, Tensor]:
        """All that the next batches depend on, scaling and norm limit among it."""
        limits = self._train.limits
        limit = torch.tensor([] if limits is None else list(limits.values()), dtype=torch.float64)
        return {**self._buffer.state(), "shift": self.scaling.shift, "scale": self.scaling.scale, "norm_limit": limit}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go back to where `state` was taken."""
        self._buffer.restore({name: t for name, t in state.items() if name not in ("shift", "scale", "norm_limit")})
        self.scaling = Scaling(state["shift"], state["scale"])
        limit = state["norm_limit"]
        self._train.limits = self._heldout.limits = {self._layer: float(limit[0])} if len(limit) else None
