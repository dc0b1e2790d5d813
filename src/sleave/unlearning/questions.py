"""What the model is asked before and after something is to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from jaxtyping import Float, Int64
from torch import Tensor

from sleave.unlearning.documents import Documents, Judge


@dataclass(frozen=True, eq=False)
class Questions:
    """Documents that the model has read, and which of them it knows.

    Attributes:
        documents: all of them, read up to the hooked layer.
        topics: the topics' names.
        topic: (documents,) the topic of each.
        train: for each topic, the documents that probes are fitted to and features chosen by.
        known: for each topic, the other documents that the clean model gets right.
        judge: says how right the model is on a document.
        pooled: (documents, d_in) the mean of each one's final states, if a probe can read the topic off it.
    """

    documents: Documents
    topics: tuple[str, ...]
    topic: Int64[Tensor, " documents"]
    train: tuple[tuple[int, ...], ...]
    known: tuple[tuple[int, ...], ...]
    judge: Judge
    pooled: Float[Tensor, "documents d_in"] | None = None

    @property
    def all_train(self) -> list[int]:
        """The training documents of every topic."""
        return [d for own in self.train for d in own]

    def of(self, topic: int, documents: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
        """Documents of a topic, and those of the others, one of each in turn as long as there are any."""
        others = [documents[t] for t in range(len(self.topics)) if t != topic]
        mixed = [d for row in zip_longest(*others) for d in row if d is not None]
        return list(documents[topic]), mixed
