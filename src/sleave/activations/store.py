"""A disk store of one model's activations at several layers: made chunk by chunk, read without loading it.

    STORE/manifest.json                             what made it, its chunks, the size and SHA-256 of every file
    STORE/chunks/00000/documents.jsonl              {id, split, label, source}, one line per document
    STORE/chunks/00000/train/tokens.safetensors     token, document, position: int32 (rows,)
    STORE/chunks/00000/train/layer_08.safetensors   activations (rows, d_in); mean, m2: float64 (d_in,) of those rows
    STORE/chunks/00000/heldout/...                  the same without mean and m2

A chunk holds consecutive documents. A half of it without rows has no files. Rows are in document order.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int64
from safetensors import safe_open
from torch import Tensor

from sleave.activations.manifest import (
    MANIFEST,
    SPLITS,
    Chunk,
    FileRecord,
    LayerMoments,
    Manifest,
    Split,
    chunk_folder,
    documents_file,
    first_damage,
    layer_file,
    refuse_another_harvest,
    tokens_file,
)
from sleave.activations.mapped import MappedRows
from sleave.activations.scaling import Moments
from sleave.base.errors import SleaveError
from sleave.base.files import save_tensors, sha256, torch_dtype, write_json, write_text
from sleave.base.progress import say
from sleave.base.settings import DType

TOKEN_COLUMNS = ("token", "document", "position")


@dataclass(frozen=True, eq=False)
class ChunkRows:
    """One split's rows of a chunk, in document order.

    Attributes:
        tokens: (rows,) token ids.
        documents: (rows,) index of the document that each row comes from.
        positions: (rows,) position of the token in its sequence.
        activations: (rows, d_in) by layer, in any floating dtype.
    """

    tokens: Tensor
    documents: Tensor
    positions: Tensor
    activations: Mapping[int, Tensor]

    def __len__(self) -> int:
        return len(self.tokens)


class StoreWriter:
    """Makes a store, or goes on with an unfinished one. A kill at any moment leaves a store that can be resumed."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Use `open`."""
        self.path = path
        self._manifest = manifest

    @classmethod
    def open(
        cls,
        path: Path,
        harvest: Mapping[str, Any],
        layers: Sequence[int],
        d_in: int,
        dtype: DType,
        model: Mapping[str, Any] | None = None,
    ) -> StoreWriter:
        """Begin a store, or reopen one that the same harvest made; every file there is checked against its SHA-256.

        From the first missing or damaged chunk on, chunks are dropped (and the user is told), to be made again.

        Args:
            path: the store's folder.
            harvest: JSON values that say what makes it: reopening needs the same.
            layers: the layers whose activations it will hold.
            d_in: width of the activations.
            dtype: how they are stored.
            model: JSON values about the model and its text in SAELens's words (model_name, context_size, dataset_path,
                prepend_bos), passed on to whatever is trained from the store.

        Raises:
            SleaveError: the folder holds something else, or a store that another harvest made.
        """
        path = Path(path)
        given = {"harvest": harvest, "model": model or {}, "layers": sorted(layers), "d_in": d_in, "dtype": dtype}
        manifest = Manifest.model_validate(json.loads(json.dumps(given)))
        there = Manifest.read(path) if (path / MANIFEST).is_file() else None
        if there is not None and there.chunks:  # one without a chunk is begun anew: nothing would be lost
            refuse_another_harvest(path, _identity(there), _identity(manifest))
            writer = cls(path, there)
            writer._drop_damaged_chunks()
        else:
            if there is None and path.is_dir() and any(not p.name.startswith(f".{MANIFEST}") for p in path.iterdir()):
                raise SleaveError(
                    f"`{path}` is not empty and not an activation store (it has no {MANIFEST}). Choose another folder."
                )
            writer = cls(path, manifest)
            writer._commit()
        for left_over in path.glob(f".{MANIFEST}.*"):
            left_over.unlink()
        writer._remove_unlisted()
        return writer

    @property
    def next_document(self) -> int:
        """Index of the first document that is in no chunk yet."""
        return self._manifest.chunks[-1].documents[1] if self._manifest.chunks else 0

    @property
    def complete(self) -> bool:
        """Whether `finish` was called and nothing was lost since."""
        return self._manifest.complete

    @property
    def norm_limits(self) -> dict[int, float] | None:
        """Per layer, the norm above which the harvest drops a row; None when it has not been set."""
        return self._manifest.norm_limits

    def set_norm_limits(self, limits: Mapping[int, float]) -> None:
        """Record the norm limits, so that a resumed harvest uses the same."""
        self._commit(norm_limits=dict(limits))

    def rows(self, split: Split) -> int:
        """Rows that are safely in the store."""
        return sum(chunk.rows[split] for chunk in self._manifest.chunks)

    def write_chunk(
        self,
        documents: tuple[int, int],
        document_records: Sequence[Mapping[str, Any]],
        splits: Mapping[Split, ChunkRows],
        dropped_rows: int = 0,
    ) -> None:
        """Add the next chunk; it is in the store entirely, or (after any error or kill) not at all.

        Args:
            documents: first document and one past the last; starts at `next_document`.
            document_records: {id, split, label, source} of each of them.
            splits: the rows of each half; a half may have none, or be left out.
            dropped_rows: rows that the harvest left out of this chunk.

        Raises:
            SleaveError: activations are not finite, or too large for the store's dtype; the disk is full.
        """
        assert documents[0] == self.next_document, (documents, self.next_document)
        assert not self.complete
        index = len(self._manifest.chunks)
        temporary = self.path / "chunks" / f".{index:05d}.tmp"
        try:
            names = [documents_file(index)]
            lines = "".join(json.dumps(dict(record), ensure_ascii=False) + "\n" for record in document_records)
            write_text(temporary / documents_file(index).name, lines)
            for name, tensors in self._files(index, splits):
                save_tensors(temporary / name.relative_to(chunk_folder(index)), tensors)
                names.append(name)
            chunk = Chunk(
                index=index,
                documents=documents,
                rows={split: len(splits[split]) if split in splits else 0 for split in SPLITS},
                dropped_rows=dropped_rows,
                files={n.as_posix(): _record(temporary / n.relative_to(chunk_folder(index))) for n in names},
            )
            temporary.rename(self.path / chunk_folder(index))
            self._commit(chunks=(*self._manifest.chunks, chunk))
        finally:
            self._remove_unlisted()

    def finish(self) -> None:
        """Mark the store complete."""
        chunks = self._manifest.chunks
        moments = {layer: _moments(self.path, chunks, layer, self._manifest.d_in) for layer in self._manifest.layers}
        kept = {
            layer: LayerMoments(count=m.count, mean=m.mean.tolist(), variance=m.variance.tolist())
            for layer, m in moments.items()
            if m.count
        }
        self._commit(complete=True, moments=kept)

    def _files(self, index: int, splits: Mapping[Split, ChunkRows]) -> Iterator[tuple[Path, dict[str, Tensor]]]:
        """A chunk's safetensors files and their tensors, one at a time to spare memory."""
        for split, rows in splits.items():
            if len(rows) == 0:
                continue
            columns = zip(TOKEN_COLUMNS, (rows.tokens, rows.documents, rows.positions), strict=True)
            yield tokens_file(index, split), {name: column.to(torch.int32) for name, column in columns}
            for layer in self._manifest.layers:
                x = rows.activations[layer]
                assert x.shape == (len(rows), self._manifest.d_in), (x.shape, len(rows), self._manifest.d_in)
                tensors = {"activations": self._stored(x, layer)}
                if split == "train":
                    moments = Moments.empty(self._manifest.d_in)
                    moments.update(tensors["activations"])
                    tensors |= {"mean": moments.mean, "m2": moments.m2}
                yield layer_file(index, split, layer), tensors

    def _stored(self, x: Tensor, layer: int) -> Tensor:
        bad = int((~x.isfinite()).any(dim=1).sum())
        if bad:
            raise SleaveError(
                f"Layer {layer}: {bad} of {len(x)} rows have NaN or infinite activations. The model overflowed: run it "
                "in float32 or bfloat16, and check that its weights are intact."
            )
        stored = x.to(torch_dtype(self._manifest.dtype))
        if not stored.isfinite().all():
            raise SleaveError(
                f"Layer {layer}: the largest activation ({float(x.abs().max()):.6g}) does not fit the store's `dtype` "
                f"(= {self._manifest.dtype!r}, at most {torch.finfo(stored.dtype).max:.6g}). Store bfloat16 instead "
                "(the same size on disk), or float32."
            )
        return stored

    def _commit(self, **changes: Any) -> None:
        manifest = self._manifest.model_copy(update=changes)
        write_json(self.path / MANIFEST, manifest.model_dump(mode="json"))
        self._manifest = manifest

    def _drop_damaged_chunks(self) -> None:
        damage = first_damage(self.path, self._manifest.chunks, hashes=True)
        if damage is not None:
            index, what = damage
            say(f"{what} Chunk {index} and the {len(self._manifest.chunks) - index - 1} after it will be made again.")
            self._commit(chunks=self._manifest.chunks[:index], complete=False, moments=None)

    def _remove_unlisted(self) -> None:
        listed = {chunk_folder(chunk.index).name for chunk in self._manifest.chunks}
        for folder in (self.path / "chunks").glob("*"):
            if folder.name not in listed:
                shutil.rmtree(folder)


class Store:
    """A complete store, for reading.

    Attributes:
        path: its folder.
        harvest: the JSON values that say what made it.
        model: JSON values about the model and its text, in SAELens's words.
        layers: the layers whose activations it holds.
        d_in: width of the activations.
        dtype: how they are stored.
        norm_limits: per layer, the norm above which rows were dropped, if they were.
        dropped_rows: number of rows that the harvest left out.
        chunks: the manifest's list of chunks.
        moments: mean and variance of the training rows, by layer.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Use `open`."""
        self.path = path
        self.harvest = manifest.harvest
        self.model = manifest.model
        self.layers = manifest.layers
        self.d_in = manifest.d_in
        self.dtype = manifest.dtype
        self.norm_limits = manifest.norm_limits
        self.dropped_rows = sum(chunk.dropped_rows for chunk in manifest.chunks)
        self.chunks = manifest.chunks
        self.moments = manifest.moments or {}

    @classmethod
    def open(cls, path: Path, verify: bool = True) -> Store:
        """Open a store.

        Args:
            path: its folder.
            verify: compare every file with its SHA-256, which reads them all; sizes are checked in any case.

        Raises:
            SleaveError: there is no store, or it is unfinished, or a file is missing, truncated or altered.
        """
        path = Path(path)
        if not (path / MANIFEST).is_file():
            lacks = f"it has no {MANIFEST}" if path.is_dir() else "no such folder"
            raise SleaveError(
                f"There is no activation store at `{path}`: {lacks}. "
                "Make one with `sleave harvest`, or give its folder."
            )
        manifest = Manifest.read(path)
        if not manifest.complete:
            raise SleaveError(
                f"The activation store `{path}` is unfinished ({len(manifest.chunks)} chunks). "
                "Run the same `sleave harvest` command again: it goes on from there."
            )
        if damage := first_damage(path, manifest.chunks, hashes=verify):
            raise SleaveError(
                f"{damage[1]} Run the same `sleave harvest` command again: it makes only that chunk and the later "
                "ones anew."
            )
        return cls(path, manifest)

    def num_rows(self, split: Split) -> int:
        """Number of rows in a split."""
        return sum(chunk.rows[split] for chunk in self.chunks)

    def layer(self, layer: int, split: Split = "train") -> LayerRows:
        """The activations at one layer.

        Raises:
            SleaveError: the layer is not in the store.
        """
        return LayerRows(self, layer, split)

    def tokens(self, split: Split) -> TokenRows:
        """Where each row of a split comes from."""
        paths = [self.path / tokens_file(chunk.index, split) for chunk in self.chunks if chunk.rows[split]]
        return TokenRows(*(MappedRows(paths, name, torch.empty(0, dtype=torch.int32)) for name in TOKEN_COLUMNS))

    def documents(self) -> Iterator[dict[str, Any]]:
        """The records {id, split, label, source} of all documents, in order."""
        for chunk in self.chunks:
            with (self.path / documents_file(chunk.index)).open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)


@dataclass(frozen=True, eq=False)
class TokenRows:
    """The token ids, document indices and positions of a split's rows (int32), gathered like activations."""

    token: MappedRows
    document: MappedRows
    position: MappedRows


class LayerRows:
    """One layer's activations in one split: memory-mapped, so it may be larger than memory.

    Attributes:
        boundaries: (files + 1,) row offsets of the chunks' files.
    """

    def __init__(self, store: Store, layer: int, split: Split) -> None:
        """Map the files; see `Store.layer`."""
        if layer not in store.layers:
            raise SleaveError(
                f"`layer` (= {layer}) is not in the activation store `{store.path}`. Layers there: "
                f"{', '.join(map(str, store.layers))}. Choose one of them, or harvest layer {layer}."
            )
        self.store = store
        self.layer = layer
        self.split: Split = split
        paths = [store.path / layer_file(chunk.index, split, layer) for chunk in store.chunks if chunk.rows[split]]
        self._mapped = MappedRows(paths, "activations", torch.empty(0, store.d_in, dtype=torch_dtype(store.dtype)))
        self.boundaries = self._mapped.boundaries

    def __len__(self) -> int:
        return len(self._mapped)

    def rows(self, ids: Int64[Tensor, " n"]) -> Float[Tensor, "n d_in"]:
        """Copies of the rows with these ids, in the stored dtype; IndexError if there is no such row."""
        return self._mapped.rows(ids)

    def blocks(self, size: int = 8192) -> Iterator[Float[Tensor, "rows d_in"]]:
        """Copies of all rows in order, `size` at a time, in the stored dtype."""
        return self._mapped.blocks(size)

    def moments(self) -> Moments:
        """The moments of all the rows; kept for the train split only."""
        assert self.split == "train"
        kept = self.store.moments[self.layer]
        variance = torch.tensor(kept.variance, dtype=torch.float64)
        return Moments(kept.count, torch.tensor(kept.mean, dtype=torch.float64), variance * kept.count)


def _record(path: Path) -> FileRecord:
    return FileRecord(bytes=path.stat().st_size, sha256=sha256(path))


def _moments(root: Path, chunks: Sequence[Chunk], layer: int, d_in: int) -> Moments:
    moments = Moments.empty(d_in)
    for chunk in chunks:
        if count := chunk.rows["train"]:
            with safe_open(root / layer_file(chunk.index, "train", layer), framework="pt") as file:
                moments.merge(Moments(count, file.get_tensor("mean"), file.get_tensor("m2")))
    return moments


def _identity(manifest: Manifest) -> dict[str, Any]:
    """What must be the same on reopening."""
    return {**manifest.harvest, "store": manifest.model_dump(mode="json", include={"layers", "d_in", "dtype"})}
