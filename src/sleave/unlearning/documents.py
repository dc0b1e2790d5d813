"""Documents that are read once up to the hooked layer, and from there as often as their activations are changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from sleave.language.contexts import Context
from sleave.language.losses import next_token_losses
from sleave.language.model import HookedModel
from sleave.language.whole import WholeModel

TOKENS = 2048  # that the model reads at once, padding included

Judge = Callable[[Sequence[int], Sequence[Tensor]], Tensor]
"""From documents and their (length, d_in) final states, how right each one's answer is: (documents,), 0 to 1."""

Finals = tuple[list[int], list[Tensor]]
"""Some documents, and of each the (length, d_in) states that the head reads."""


@dataclass(frozen=True, eq=False)
class Change:
    """What is added to the residual stream.

    Attributes:
        position: where, ascending, among the positions of all documents.
        delta: (positions, d_in) what is added there, in the units of the activations.
    """

    position: Int64[Tensor, " positions"]
    delta: Float[Tensor, "positions d_in"]


@dataclass(frozen=True, eq=False)
class Documents:
    """Documents with the residual stream after one block.

    Attributes:
        model: the language model.
        layer: the block.
        contexts: the documents' tokens.
        residual: (positions, d_in) of every position, one document after the other, in the model's dtype.
        start: (documents + 1,) where each begins.
        text: (positions,) which of them may be changed: tokens that stand for text, with no massive norm.
    """

    model: WholeModel
    layer: int
    contexts: Sequence[Context]
    residual: Float[Tensor, "positions d_in"]
    start: Int[Tensor, " documents_plus_1"]
    text: Bool[Tensor, " positions"]

    @staticmethod
    def read(
        model: WholeModel,
        contexts: Sequence[Context],
        layer: int,
        max_norm_ratio: float | None = None,
        advance: Callable[[int], None] = lambda done: None,
    ) -> Documents:
        """Read documents up to a block.

        Args:
            model: the language model.
            contexts: the documents.
            layer: the block, counted from 0.
            max_norm_ratio: a token whose norm is more than so many times the median is left alone.
            advance: told how many documents were read.
        """
        parts: list[Tensor] = [torch.empty(0)] * len(contexts)
        for batch in HookedModel.batches(contexts, TOKENS):
            read = model.residuals([contexts[d] for d in batch], layer)
            for d, rows in zip(batch, read.cpu(), strict=True):
                parts[d] = rows[: len(contexts[d].token_ids)].clone()
            advance(len(batch))
        residual = torch.cat(parts)
        text = torch.tensor([k for c in contexts for k in c.keep])
        if max_norm_ratio is not None:
            norm = residual.float().norm(dim=1)
            text &= norm <= max_norm_ratio * norm[text].median()
        start = torch.tensor([0, *(len(p) for p in parts)]).cumsum(0)
        return Documents(model, layer, contexts, residual, start, text)

    @cached_property
    def document(self) -> Int64[Tensor, " positions"]:
        """Of each position, which document it is of."""
        return torch.repeat_interleave(torch.arange(len(self.contexts)), self.start.diff())

    def rows(self, documents: Sequence[int]) -> Bool[Tensor, " positions"]:
        """Which positions are of the text of some documents, and may be changed."""
        wanted = torch.zeros(len(self.contexts), dtype=torch.bool)
        wanted[list(documents)] = True
        return wanted[self.document] & self.text

    def touched(self, change: Change) -> Bool[Tensor, " documents"]:
        """Which documents are changed at all."""
        touched = torch.zeros(len(self.contexts), dtype=torch.bool)
        touched[self.document[change.position]] = True
        return touched

    def finals(self, documents: Sequence[int], change: Change | None = None) -> Iterator[Finals]:
        """What the head reads of some documents, a batch at a time, in an order that suits the model."""
        for group in HookedModel.batches([self.contexts[d] for d in documents], TOKENS):
            batch = [documents[i] for i in group]
            rows = self.model.final(self._padded(batch, change), self.layer)
            yield batch, [r[: len(self.contexts[d].token_ids)] for d, r in zip(batch, rows, strict=True)]

    def right(self, documents: Sequence[int], judge: Judge, finals: Iterable[Finals]) -> Float[Tensor, " documents"]:
        """How right the answers are on some documents, given their final states in any order."""
        found = {d: float(r) for batch, rows in finals for d, r in zip(batch, judge(batch, rows), strict=True)}
        return torch.tensor([found[d] for d in documents])

    def loss(self, finals: Iterable[Finals]) -> dict[int, tuple[float, int]]:
        """Of each document, the sum of the losses of its next tokens, in nats, and how many tokens that is of."""
        found: dict[int, tuple[float, int]] = {}
        for batch, rows in finals:
            losses = next_token_losses(self.model, rows, [self.contexts[d] for d in batch])
            found.update((d, (float(loss.sum()), len(loss))) for d, loss in zip(batch, losses, strict=True))
        return found

    def pooled(self, documents: Sequence[int], finals: Iterable[Finals]) -> Float[Tensor, "documents d_in"]:
        """The final states of some documents, given in any order, averaged over the text of each."""
        found = {d: self.mean_of_text(d, r).cpu() for batch, rows in finals for d, r in zip(batch, rows, strict=True)}
        return torch.stack([found[d] for d in documents])

    def mean_of_text(self, document: int, rows: Float[Tensor, "length d_in"]) -> Float[Tensor, " d_in"]:
        """The mean of a document's rows over the tokens that stand for text."""
        keep = torch.tensor(self.contexts[document].keep, device=rows.device)
        return rows[keep].float().mean(0)

    def _padded(self, batch: Sequence[int], change: Change | None) -> Tensor:
        width = max(len(self.contexts[d].token_ids) for d in batch)
        padded = self.residual.new_zeros(len(batch), width, self.residual.shape[1])
        for n, d in enumerate(batch):
            first, last = int(self.start[d]), int(self.start[d + 1])
            rows = self.residual[first:last]
            if change is not None:
                inside = slice(*torch.searchsorted(change.position, torch.tensor([first, last])).tolist())
                rows = rows.float().index_add(0, change.position[inside] - first, change.delta[inside])
            padded[n, : last - first] = rows.to(padded.dtype)
        return padded
