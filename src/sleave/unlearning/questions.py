"""What the model is asked before and after something is to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Int64
from torch import Tensor

from sleave.unlearning.documents import Documents, Judge


@dataclass(frozen=True, eq=False)
class Questions:
    """Passages that the model has read, and what the probes know of them.

    Attributes:
        documents: all passages, read up to the hooked layer.
        topics: the topics' names.
        topic: (documents,) the topic of each.
        train: for each topic, the documents that probes are fitted to and features chosen by.
        known: for each topic, the other documents that all probes get right.
        judge: says what share of the probes gets a document right.
    """

    documents: Documents
    topics: tuple[str, ...]
    topic: Int64[Tensor, " documents"]
    train: tuple[tuple[int, ...], ...]
    known: tuple[tuple[int, ...], ...]
    judge: Judge

    def of(self, topic: int, documents: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
        """Documents of a topic, and as many of the others, evenly."""
        others = [documents[t] for t in range(len(self.topics)) if t != topic]
        mixed = [d for row in zip(*others, strict=False) for d in row]
        return list(documents[topic]), mixed
