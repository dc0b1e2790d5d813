"""Text -> language model -> activation store, resumable, one pass for all layers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from sleave.activations.manifest import MANIFEST, Manifest, Split, first_damage, refuse_another_harvest, stored_dtype
from sleave.activations.store import ChunkRows, Store, StoreWriter
from sleave.base.errors import SleaveError
from sleave.base.files import exclusive
from sleave.base.progress import Advance, progress, say
from sleave.base.ranks import ALONE, Ranks
from sleave.language.contexts import Context
from sleave.language.corpora import Document, read_corpora
from sleave.language.model import HookedModel
from sleave.language.reading import Item, items, metadata, norm_limits, not_massive, read, specification
from sleave.language.settings import CorpusSettings, HarvestSettings, HubCorpus, ModelSettings


def harvest(
    model: ModelSettings, corpora: Sequence[CorpusSettings], settings: HarvestSettings, ranks: Ranks = ALONE
) -> Store:
    """Make the activation store that the settings describe, go on with an unfinished one, or reuse a finished one.

    Ranks share the batches that the model reads; the first one writes, and the store is the same (to the bit
    if each has as many threads as one process would have).

    Raises:
        SleaveError: no `store` was named; the folder holds another harvest; the model or the text is missing; there is
            no text on one side of the split; activations are not finite; the disk is full (finished chunks stay).
    """
    if settings.store is None:
        raise SleaveError("`harvest.store` names no folder. Give one, such as --harvest.store activations/mine.")
    path = Path(settings.store)
    wanted = specification(model, corpora, settings)
    if ranks.any(ranks.first and _is_there(path, wanted, model.layers)):
        store = Store.open(path, verify=False)
        say(
            f"Reusing the activations in {path}: {store.num_rows('train'):,} training rows (tokens), "
            f"{store.num_rows('heldout'):,} held out"
        )
        return store
    say(f"Loading {model.name}")
    model = model.model_copy(update={"dtype": stored_dtype(model.dtype, model.device, path)})
    hooked = HookedModel.load(model)
    if ranks.first:
        with exclusive(path):
            writer = StoreWriter.open(
                path, wanted, model.layers, hooked.d_in, settings.dtype, metadata(hooked, corpora, settings)
            )
            ranks.number_of_first(writer.next_document)
            if not ranks.any(writer.complete):
                _harvest(hooked, corpora, settings, writer, ranks)
    else:
        start = ranks.number_of_first(0)
        if not ranks.any(False):
            _help(hooked, corpora, settings, start, ranks)
    ranks.wait()
    store = Store.open(path, verify=False)
    say(
        f"Kept in {path}: {store.num_rows('train'):,} training rows (tokens), {store.num_rows('heldout'):,} held out, "
        f"layer{'s' * (len(store.layers) > 1)} {', '.join(map(str, store.layers))}"
    )
    return store


def _is_there(path: Path, wanted: dict[str, object], layers: Sequence[int]) -> bool:
    """Whether a finished, undamaged store of the same harvest is there: known before any model is loaded.

    Raises:
        SleaveError: the store there is of another harvest.
    """
    if not (path / MANIFEST).is_file():
        return False
    manifest = Manifest.read(path)
    if not manifest.chunks:
        return False
    there = {**manifest.harvest, "model.layers": manifest.layers}
    refuse_another_harvest(path, there, {**wanted, "model.layers": list(layers)})
    return manifest.complete and first_damage(path, manifest.chunks, hashes=True) is None


def _help(
    model: HookedModel, corpora: Sequence[CorpusSettings], settings: HarvestSettings, start: int, ranks: Ranks
) -> None:
    """Read along with the first rank, chunk by chunk."""
    stream = items(_documents(corpora, settings.seed)[0], model, settings, start=start)
    while (wanted := ranks.number_of_first(0)) and (chunk := _next_chunk(stream, settings, wanted)):
        read(model, _sequences(chunk), settings.batch_tokens, ranks=ranks)


def _harvest(
    model: HookedModel,
    corpora: Sequence[CorpusSettings],
    settings: HarvestSettings,
    writer: StoreWriter,
    ranks: Ranks,
) -> None:
    documents, total = _documents(corpora, settings.seed)
    stream = items(documents, model, settings, start=writer.next_document)
    say(f"Reading text on {model.device}, layers {', '.join(map(str, model.layers))}")
    done = _Done(writer, total, settings.max_tokens)
    with progress("Harvesting", 100, "%", done.percent) as advance, _Writing() as writing:
        while wanted := ranks.number_of_first(max(0, settings.max_tokens - done.train_rows)):
            chunk = _next_chunk(stream, settings, wanted)
            if not chunk:
                break
            after_batch = writing.watched(done.over(chunk, advance, ranks.size))
            rows = read(model, _sequences(chunk), settings.batch_tokens, after_batch, ranks)
            keep = _kept(rows, settings, writer, writing)
            done.train_rows += int(keep[: _num_train(chunk)].sum())
            writing.begin(chunk, rows, keep, writer)
            del rows, keep  # while the next chunk is read, only the writing holds them
        advance(100 - done.percent, "")
    for split in ("train", "heldout"):
        if writer.rows(split) == 0 and (split == "train" or settings.heldout_fraction > 0):
            raise SleaveError(
                f"No {split} rows came out of {writer.next_document} documents. Delete `{writer.path}`, and give more "
                "text (a .txt file is one document; a row of .jsonl, .csv or .parquet is one), change "
                "harvest.heldout_fraction, or loosen harvest.min_tokens and harvest.max_special_fraction."
            )
    writer.finish()


class _Writing:
    """Writes a chunk while the next one is read: on a thread of its own, one at a time."""

    def __init__(self) -> None:
        # As many threads as here: how many there are decides how sums round.
        self._thread = ThreadPoolExecutor(1, "writing", torch.set_num_threads, (torch.get_num_threads(),))
        self._last: Future[None] | None = None

    def __enter__(self) -> _Writing:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown()
        if error[0] is None:  # else that is what is told
            self.wait()

    def begin(self, chunk: list[Item], rows: Mapping[int, Tensor], keep: Tensor, writer: StoreWriter) -> None:
        """Write a chunk, once the one before it is written."""
        self.wait()
        self._last = self._thread.submit(_write, chunk, rows, keep, writer)

    def watched(self, after_batch: Callable[[int], None]) -> Callable[[int], None]:
        """The same; and a chunk that could not be written is told after the next batch, not after the next chunk."""

        def after(rows: int) -> None:
            after_batch(rows)
            if self._last is not None and self._last.done():
                self.wait()

        return after

    def wait(self) -> None:
        """Until what was begun is written.

        Raises:
            SleaveError: it could not be.
        """
        last, self._last = self._last, None
        if last is not None:
            last.result()


class _Done:
    """How far a harvest is, in percent of max_tokens, or of the documents if they will end first."""

    def __init__(self, writer: StoreWriter, documents: int | None, max_tokens: int) -> None:
        self.train_rows = writer.rows("train")  # those on their way to the disk among them
        self._documents = documents
        self._max_tokens = max_tokens
        self._began = time.monotonic()
        self._rows = 0  # in this process
        self.percent = self._percent(0, writer.next_document)

    def over(self, chunk: list[Item], advance: Advance, ranks: int) -> Callable[[int], None]:
        """What to call with the number of rows of each batch of the next chunk; each other rank does as many."""
        after = self._percent(sum(i.rows for i in chunk if not i.heldout), chunk[-1].number + 1)
        per_row = (after - self.percent) / max(1, sum(i.rows for i in chunk))

        def after_batch(rows: int) -> None:
            rows *= ranks
            self._rows += rows
            self.percent += rows * per_row
            pace = self._rows / max(time.monotonic() - self._began, 1e-9)
            advance(rows * per_row, f"{self._rows:,} tokens, {pace:,.0f} tokens/s")

        return after_batch

    def _percent(self, new_rows: int, document: int) -> float:
        of_text = document / self._documents if self._documents else 0.0
        return 100 * min(1.0, max((self.train_rows + new_rows) / self._max_tokens, of_text))


def _documents(corpora: Sequence[CorpusSettings], seed: int) -> tuple[Iterator[Document], int | None]:
    """The documents, and how many there are, if that can be known."""
    documents = read_corpora(corpora, seed)
    if any(isinstance(c, HubCorpus) for c in corpora):
        return documents, None
    whole = list(documents)
    return iter(whole), len(whole)


def _next_chunk(stream: Iterator[Item], settings: HarvestSettings, wanted: int) -> list[Item]:
    chunk: list[Item] = []
    rows = 0
    while rows < min(wanted, settings.chunk_tokens) and (item := next(stream, None)) is not None:
        chunk.append(item)
        rows += 0 if item.heldout else item.rows
    return chunk


def _sequences(chunk: list[Item]) -> list[Context]:
    """Its contexts, those of held-out documents last."""
    ordered = [i for side in (False, True) for i in chunk if i.heldout == side]
    return list(chain.from_iterable(i.contexts for i in ordered))


def _num_train(chunk: list[Item]) -> int:
    return sum(i.rows for i in chunk if not i.heldout)


def _kept(rows: Mapping[int, Tensor], settings: HarvestSettings, writer: StoreWriter, writing: _Writing) -> Tensor:
    """(rows,) whether each row is kept; the first rows that there are say which are too large."""
    limits = writer.norm_limits
    if limits is None and (limits := norm_limits(rows, settings)) is not None:
        writing.wait()  # chunks without a row may have come before
        writer.set_norm_limits(limits)
    return not_massive(rows, limits)


def _write(chunk: list[Item], rows: Mapping[int, Tensor], keep: Tensor, writer: StoreWriter) -> None:
    sequences = _sequences(chunk)
    boundary = _num_train(chunk)
    parts: dict[Split, slice] = {"train": slice(None, boundary), "heldout": slice(boundary, None)}
    writer.write_chunk(
        documents=(chunk[0].number, chunk[-1].number + 1),
        document_records=[
            {
                "id": i.number,
                "split": "heldout" if i.heldout else "train",
                "label": i.document.label,
                "source": i.document.source,
            }
            for i in chunk
        ],
        splits={split: _chunk_rows(sequences, rows, keep, part) for split, part in parts.items()},
        dropped_rows=int((~keep).sum()),
    )


def _chunk_rows(sequences: Sequence[Context], rows: Mapping[int, Tensor], keep: Tensor, part: slice) -> ChunkRows:
    """The kept rows within a part of all rows."""
    origin = [
        (token, c.document, position)
        for c in sequences
        for position, (token, wanted) in enumerate(zip(c.token_ids, c.keep, strict=True))
        if wanted
    ]
    token, document, position = torch.tensor(origin, dtype=torch.int32).reshape(-1, 3)[part][keep[part]].unbind(1)
    return ChunkRows(token, document, position, {layer: x[part][keep[part]] for layer, x in rows.items()})
