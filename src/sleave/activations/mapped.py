"""One tensor spread over many safetensors files, read through memory maps: only the rows asked for leave the disk."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I32": torch.int32}


class MappedRows:
    """The rows of a tensor of one name in several safetensors files, one file after the other.

    Attributes:
        boundaries: (files + 1,) row offsets: file i holds rows boundaries[i] to boundaries[i + 1].
    """

    def __init__(self, paths: Sequence[Path], name: str, empty: Tensor) -> None:
        """Map the files.

        Args:
            paths: the files, in row order.
            name: the tensor's name in each of them.
            empty: (0, ...) rows of the tensor's dtype and shape: what there is when there are no files.
        """
        self._files = [_map(path, name) for path in paths]
        self._empty = empty
        self.boundaries: tuple[int, ...] = tuple(accumulate((len(f) for f in self._files), initial=0))
        self._ends = torch.tensor(self.boundaries[1:], dtype=torch.int64)

    def __len__(self) -> int:
        return self.boundaries[-1]

    def rows(self, ids: Int64[Tensor, " n"]) -> Tensor:
        """Copies of the rows with these ids: (n, ...), in the stored dtype.

        Raises:
            IndexError: an id is not in 0 .. len - 1.
        """
        out = self._empty.new_empty((len(ids), *self._empty.shape[1:]))
        where = torch.bucketize(ids, self._ends, right=True)
        for i in where.unique().tolist():
            here = where == i
            out[here] = self._files[i].index_select(0, ids[here] - self.boundaries[i])
        return out

    def blocks(self, size: int = 8192) -> Iterator[Tensor]:
        """Copies of all rows in order, `size` at a time (the last block may be shorter)."""
        for start in range(0, len(self), size):
            yield self.rows(torch.arange(start, min(start + size, len(self))))


def _map(path: Path, name: str) -> Tensor:
    # Not safe_open: whether its get_tensor maps or copies depends on its version, and get_slice takes no row ids.
    # Not np.memmap: it keeps a file descriptor open per map, and a large store has more chunks than the usual limit.
    with path.open("rb") as file:
        (header_size,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(header_size))[name]
    begin, end = (8 + header_size + offset for offset in entry["data_offsets"])
    content = torch.from_file(str(path), shared=False, size=end, dtype=torch.uint8)
    return content[begin:].view(DTYPES[entry["dtype"]]).view(entry["shape"])
