"""Documents cut into token sequences of bounded length, and the split into training and held-out documents."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sleave.language.corpora import Document
from sleave.language.settings import ContextSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DOCUMENTS_AT_ONCE = 512  # enough for the fast tokenizer to use every core


@dataclass(frozen=True)
class Context:
    """A sequence for the model to read.

    Attributes:
        token_ids: beginning-of-sequence token, where the tokenizer has one, then a stretch of one document.
        keep: for each token, whether its activations are wanted: False for special tokens.
        document: the number of the document that it comes from.
    """

    token_ids: tuple[int, ...]
    keep: tuple[bool, ...]
    document: int

    @property
    def num_kept(self) -> int:
        """The number of tokens whose activations are wanted."""
        return sum(self.keep)


def special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of every token that stands for no text: beginning, end, padding, turns of a chat."""
    added = (i for i, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset(tokenizer.all_special_ids).union(added)


def context_of(
    token_ids: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    document: int,
    special: AbstractSet[int] = frozenset(),
) -> Context:
    """Tokens of a text as a context: behind the beginning-of-sequence token, where the tokenizer has one.

    Args:
        token_ids: of the text alone.
        tokenizer: the model's tokenizer.
        document: its number.
        special: ids of tokens whose activations are not wanted, if the text may hold some (see `special_ids`).
    """
    first = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    keep = (*(False for _ in first), *(token not in special for token in token_ids))
    return Context((*first, *token_ids), keep, document)


def contexts(
    documents: Iterable[tuple[int, Document]],
    tokenizer: PreTrainedTokenizerBase,
    settings: ContextSettings,
) -> Iterator[Context]:
    """Cut documents into contexts, in order; a long document gives several, each with its own first token.

    Args:
        documents: documents with their numbers, which the contexts carry on.
        tokenizer: the model's tokenizer.
        settings: the length of a context, and which to drop.
    """
    special = special_ids(tokenizer)
    length = settings.context_length - (tokenizer.bos_token_id is not None)
    limit = 1.0 if settings.max_special_fraction is None else settings.max_special_fraction
    stream = iter(documents)
    while some := list(itertools.islice(stream, DOCUMENTS_AT_ONCE)):
        # verbose: no warning that a document is longer than the model's positions; contexts are not.
        tokens = tokenizer([d.text for _, d in some], add_special_tokens=False, verbose=False)["input_ids"]
        for (number, _), ids in zip(some, tokens, strict=True):
            for start in range(0, len(ids), length):
                piece = ids[start : start + length]
                context = context_of(piece, tokenizer, number, special)
                if context.num_kept >= settings.min_tokens and 1 - context.num_kept / len(piece) <= limit:
                    yield context


def padded_ids(contexts: Sequence[Context]) -> Int[Tensor, "contexts width"]:
    """Token ids, padded on the right."""
    width = max(len(c.token_ids) for c in contexts)
    return torch.tensor([[*c.token_ids, *[0] * (width - len(c.token_ids))] for c in contexts])


def padded_keep(contexts: Sequence[Context]) -> Bool[Tensor, "contexts width"]:
    """Which positions hold a token that stands for text: neither padding nor special."""
    width = max(len(c.token_ids) for c in contexts)
    return torch.tensor([[*c.keep, *[False] * (width - len(c.keep))] for c in contexts])


def is_heldout(document: Document, fraction: float, seed: int) -> bool:
    """Whether a document is held out from training.

    Decided by a hash of its text, so that it depends on no order and repeats of a text fall on the same side.

    Args:
        document: the document.
        fraction: the share of documents to hold out, 0 to 1.
        seed: another seed holds out other documents.
    """
    digest = hashlib.sha256(f"{seed}:{document.text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
