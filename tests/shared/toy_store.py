"""A small store: chunks of two documents, one for training (7 rows) and one held out (3 rows), at two layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sleave.activations.store import ChunkRows, StoreWriter

D_IN = 6
LAYERS = (3, 8)
HARVEST = {"model": {"name": "toy", "revision": "abc"}, "context_length": 4}
MODEL = {"model_name": "toy", "context_size": 4, "dataset_path": "toy-news", "prepend_bos": False}


def chunk_rows(rows: int, first_document: int, dtype: torch.dtype = torch.float32) -> ChunkRows:
    generator = torch.Generator().manual_seed(100 * first_document + rows)
    return ChunkRows(
        tokens=torch.randint(0, 1000, (rows,), generator=generator),
        documents=torch.full((rows,), first_document),
        positions=torch.arange(rows),
        activations={layer: layer + torch.randn(rows, D_IN, generator=generator).to(dtype) for layer in LAYERS},
    )


def add_chunk(writer: StoreWriter, train: int = 7, heldout: int = 3) -> None:
    start = writer.next_document
    records = [
        {"id": f"d{start}", "split": "train", "label": "World", "source": "ü.txt"},
        {"id": f"d{start + 1}", "split": "heldout", "label": None, "source": "b.txt"},
    ]
    splits: dict[Any, ChunkRows] = {"train": chunk_rows(train, start), "heldout": chunk_rows(heldout, start + 1)}
    writer.write_chunk((start, start + 2), records, splits, dropped_rows=1)


def open_writer(path: Path, **changes: Any) -> StoreWriter:
    given = {"harvest": HARVEST, "layers": LAYERS, "d_in": D_IN, "dtype": "float32", "model": MODEL} | changes
    return StoreWriter.open(path, **given)


def fill(path: Path, chunks: int, **changes: Any) -> None:
    """Make the store, or whatever of it is not there yet."""
    writer = open_writer(path, **changes)
    while writer.next_document < 2 * chunks:
        add_chunk(writer)
    if not writer.complete:
        writer.finish()
