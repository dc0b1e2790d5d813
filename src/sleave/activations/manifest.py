"""What a store says of itself: its manifest, the paths of its files, and whether these are still as it has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

from sleave.base.device import choose_device, choose_dtype
from sleave.base.errors import SleaveError
from sleave.base.files import dtype_name, read_json, sha256
from sleave.base.progress import progress
from sleave.base.settings import DType, Settings, differences, parse

MANIFEST = "manifest.json"
SHOW_PROGRESS_ABOVE = 1 << 30  # bytes to hash; less is done in a second or two

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")


class FileRecord(Settings):
    """A file as it was written."""

    bytes: int
    sha256: str


class Chunk(Settings):
    """A run of consecutive documents and the files that hold their rows."""

    index: int
    documents: tuple[int, int]
    """First document and one past the last."""
    rows: dict[Split, int]
    dropped_rows: int
    files: dict[str, FileRecord]
    """By path relative to the store."""


class LayerMoments(Settings):
    """Mean and variance of each dimension over a layer's training rows; what scaling is made of."""

    count: int
    mean: list[float]
    variance: list[float]


class Manifest(Settings):
    """The content of manifest.json."""

    format: Literal[1] = 1
    harvest: dict[str, Any]
    model: dict[str, Any]
    layers: list[int]
    d_in: int
    dtype: DType
    complete: bool = False
    norm_limits: dict[int, float] | None = None
    moments: dict[int, LayerMoments] | None = None
    chunks: tuple[Chunk, ...] = ()

    @classmethod
    def read(cls, root: Path) -> Manifest:
        """Read the manifest of the store at `root`.

        Raises:
            SleaveError: it is missing, truncated, or not a manifest of this version.
        """
        try:
            return parse(cls, read_json(root / MANIFEST), where=f"`{root / MANIFEST}`")
        except SleaveError as error:
            raise SleaveError(f"{error}\nDelete `{root}` and run `sleave harvest` again.") from error


def refuse_another_harvest(root: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare what made the store at `root` with what is wanted now.

    Raises:
        SleaveError: they differ; the message lists each key that does.
    """
    if lines := differences(there, now):
        raise SleaveError(
            f"`{root}` holds the activations of another harvest:\n"
            + "\n".join(lines)
            + "\nChoose another folder, or delete this one."
        )


def stored_dtype(asked: str, device: str, store: str | Path | None) -> str:
    """The name of the number format that a language model runs in; `auto` is that of the store, if it is begun."""
    if asked != "auto":
        return asked
    if store is not None and (Path(store) / MANIFEST).is_file():
        there = Manifest.read(Path(store))
        model = there.harvest.get("model")
        if there.chunks and isinstance(model, dict) and "dtype" in model:  # not all stores are of a harvest
            return str(model["dtype"])
    return dtype_name(choose_dtype("auto", choose_device(device)))


def chunk_folder(index: int) -> Path:
    """A chunk's folder, relative to the store."""
    return Path("chunks", f"{index:05d}")


def tokens_file(index: int, split: Split) -> Path:
    """The file of a chunk's token, document and position numbers, relative to the store."""
    return chunk_folder(index) / split / "tokens.safetensors"


def layer_file(index: int, split: Split, layer: int) -> Path:
    """The file of a chunk's activations at one layer, relative to the store."""
    return chunk_folder(index) / split / f"layer_{layer:02d}.safetensors"


def documents_file(index: int) -> Path:
    """The file that lists a chunk's documents, relative to the store."""
    return chunk_folder(index) / "documents.jsonl"


def first_damage(root: Path, chunks: Iterable[Chunk], *, hashes: bool) -> tuple[int, str] | None:
    """Look for the first chunk whose files are not as the manifest has them.

    Args:
        root: the store.
        chunks: the chunks to look at, in order.
        hashes: compare SHA-256 too (reads every byte); otherwise only sizes.

    Returns:
        the chunk's index and a sentence that names the file and what is wrong with it, or None.
    """
    files = [(chunk.index, root / name, record) for chunk in chunks for name, record in chunk.files.items()]
    total = sum(record.bytes for _, _, record in files)
    large = hashes and total > SHOW_PROGRESS_ABOVE
    with progress(f"Checking {root}", total / 1e6, "MB") if large else nullcontext(lambda *_: None) as advance:
        for index, path, record in files:
            if not path.is_file():
                return index, f"`{path}` is missing."
            if (size := path.stat().st_size) != record.bytes:
                return index, f"`{path}` has {size} bytes instead of {record.bytes}: it was truncated or replaced."
            if hashes and sha256(path) != record.sha256:
                return index, f"`{path}` was altered: its SHA-256 is not the one in `{MANIFEST}`."
            advance(record.bytes / 1e6, "")
    return None
