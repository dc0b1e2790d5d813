"""Labelled text for whatever asks the language model itself: short passages of documents that no training saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from sleave.base.errors import SleaveError
from sleave.base.settings import Settings
from sleave.language.contexts import Context, contexts, is_heldout
from sleave.language.corpora import Document, read_corpora
from sleave.language.settings import ContextSettings, CorpusSettings, HarvestSettings, HubCorpus, PackagedCorpus


class PassageSettings(Settings):
    """Which labelled documents are read, and how much of each."""

    corpus: Annotated[tuple[CorpusSettings, ...], Field(min_length=1)] = (PackagedCorpus(name="news"),)
    """Documents with topics (labels). Those that the autoencoder was trained on are left out."""
    tokens: Annotated[int, Field(ge=4)] = 40
    """The first so many tokens of each document are read, beginning-of-sequence token included."""
    min_tokens: Annotated[int, Field(ge=1)] = 8
    """Documents with fewer tokens are left out."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the order of the documents, and so of which are used for what."""


@dataclass(frozen=True)
class Passage:
    """The beginning of a document.

    Attributes:
        context: its tokens.
        topic: its label; None if it has none.
    """

    context: Context
    topic: str | None


def passages(settings: PassageSettings, tokenizer: Any, unseen: Callable[[Document], bool]) -> list[Passage]:
    """The beginnings of all documents that training never saw, in an order that the seed fixes.

    Of documents that begin alike only the first is there, so that no passage can be on both sides of a split.

    Raises:
        SleaveError: the text is missing, or training has seen all of it.
    """
    documents = [d for d in read_corpora(settings.corpus, settings.seed) if unseen(d)]
    cut = ContextSettings(context_length=settings.tokens, min_tokens=settings.min_tokens)
    first: dict[int, Context] = {}
    for context in contexts(enumerate(documents), tokenizer, cut):
        first.setdefault(context.document, context)
    if not first:
        raise SleaveError(
            "None of the labelled documents is new to this autoencoder, or all are too short. Give others as "
            "evaluation.passages.corpus."
        )
    distinct: dict[tuple[int, ...], Context] = {}
    for context in first.values():
        distinct.setdefault(context.token_ids, context)
    return [Passage(context, documents[context.document].label) for context in distinct.values()]


def unseen_by(corpora: Sequence[CorpusSettings], harvest: HarvestSettings) -> Callable[[Document], bool]:
    """Tells whether a harvest's training side has not got a document.

    A document that the hash holds out is new, whatever corpus it is of; any other must not be in the corpora's text. A
    corpus on the hub is not read for this: with one, only what is held out counts as new, since a corpus of any kind
    may hold the same texts.
    """
    on_hub = any(isinstance(c, HubCorpus) for c in corpora)
    trained = set() if on_hub else {d.text for d in read_corpora(corpora, 0)}

    def unseen(document: Document) -> bool:
        heldout = is_heldout(document, harvest.heldout_fraction, harvest.seed)
        return heldout or not (on_hub or document.text in trained)

    return unseen
