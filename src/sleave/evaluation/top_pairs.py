"""The most correlated pairs: how many features they touch, and whether other text gives the same ones."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sleave.codes.codes import Codes, as_codes
from sleave.dependence.pairs import Pairs
from sleave.dependence.selection import top_pairs

TOP = 0.001  # of all pairs


@dataclass(frozen=True)
class TopPairsResult:
    """T, the top 0.1% of all P pairs by |cosine|; pairs that never fire together are not among them.

    Attributes:
        pairs: how many there are.
        unique_features: how many different features they touch.
        stability: Jaccard overlap of T on one half of the documents and T on the other; None if there is one half only.
    """

    pairs: int
    unique_features: int
    stability: float | None


class TopPairs:
    """Accumulates codes, keeping only what fires."""

    def __init__(self) -> None:
        self._codes: list[Codes] = []
        self._half: list[Tensor] = []

    def update(self, acts: Float[Tensor, "batch d_sae"] | Codes, half: Bool[Tensor, " batch"]) -> None:
        """Add a batch, and in which half of the documents each of its rows is."""
        if len(acts):
            self._codes.append(as_codes(acts))
            self._half.append(half)

    def compute(self) -> TopPairsResult:
        """The result so far.

        Raises:
            NotEnoughMemory: so much fires together that the codes must be dense, and they do not fit.
        """
        codes, half = Codes.cat(self._codes), torch.cat(self._half)
        whole = _top(codes)
        both = bool(half.any()) and not bool(half.all())
        stability = _top(codes.at_rows(half)).jaccard(_top(codes.at_rows(~half))) if both else None
        return TopPairsResult(len(whole), whole.num_features, stability)


def _top(codes: Codes) -> Pairs:
    pairs = top_pairs(codes, TOP)
    return pairs.where(pairs.score > 0)
