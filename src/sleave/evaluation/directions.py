"""Every pair of features by the cosine of their decoder directions, without a d_sae^2 matrix."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

TILE = 2048


def tiles(unit: Float[Tensor, "d_sae d_in"]) -> Iterator[tuple[int, int, Tensor]]:
    """The upper triangle of unit @ unit^T: the first row and column of each tile, and the tile.

    On the diagonal and below it, a tile has -infinity: each pair i < j is there once.
    """
    for row in range(0, len(unit), TILE):
        for column in range(row, len(unit), TILE):
            tile = unit[row : row + TILE] @ unit[column : column + TILE].t()
            if row == column:
                tile.masked_fill_(torch.ones_like(tile, dtype=torch.bool).tril(), -torch.inf)
            yield row, column, tile


def num_tiles(d_sae: int) -> int:
    """How many tiles there are."""
    side = -(-d_sae // TILE)
    return side * (side + 1) // 2


class Nearest:
    """The largest cosine that each feature has with another, gathered from tiles.

    Attributes:
        cosine: so far.
    """

    def __init__(self, d_sae: int) -> None:
        self.cosine = torch.full((d_sae,), -torch.inf)

    def add(self, row: int, column: int, tile: Float[Tensor, "rows columns"]) -> None:
        """Take a tile into account."""
        for start, largest in ((row, tile.amax(1)), (column, tile.amax(0))):
            part = self.cosine[start : start + len(largest)]
            torch.maximum(part, largest, out=part)
