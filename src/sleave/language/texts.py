"""Tokens as text to read: with a model's tokenizer, and without its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sleave.language.model import load_tokenizer
from sleave.language.settings import ModelSettings


def token_texts(settings: ModelSettings) -> Callable[[Sequence[int]], list[str]]:
    """What gives the texts of a model's tokens, each as it reads within a text, with the space before it.

    Raises:
        SleaveError: the tokenizer is missing.
    """
    tokenizer = load_tokenizer(settings)
    # Many tokenizers drop the space before the first token, so every token is read behind another one.
    before = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    lead = tokenizer.decode(before, clean_up_tokenization_spaces=False)

    def texts(ids: Sequence[int]) -> list[str]:
        both = ([*before, token] for token in ids)
        return [tokenizer.decode(b, clean_up_tokenization_spaces=False).removeprefix(lead) for b in both]

    return texts
