"""Single-token words in lists of words with their first letters: whether a model can spell, and what it holds then."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sleave.base.progress import Advance
from sleave.language.contexts import Context, context_of
from sleave.language.whole import WholeModel

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORD = re.compile("[▁Ġ]([a-z]{3,})")  # as tokenizers write the space before it
LINE = (" ->", " {letter}", "\n")  # after each word
EXAMPLES = 10  # at the beginning of each list
ASKED = 10  # after them
LISTS_AT_ONCE = 10
LISTS_SPELT = 40


@dataclass(frozen=True)
class Word:
    """A word that is one token, with the space before it.

    Attributes:
        token: its id.
        letter: the number of its first letter, 0 to 25.
    """

    token: int
    letter: int


def common_words(tokenizer: Any, per_letter: int) -> list[Word]:
    """The words of the lowest token ids (which most tokenizers give to the commonest), so many for each letter."""
    by_letter: dict[str, list[int]] = {letter: [] for letter in LETTERS}
    for token, number in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1]):
        if (match := WORD.fullmatch(token)) and len(by_letter[match[1][0]]) < per_letter:
            by_letter[match[1][0]].append(number)
    return [Word(number, n) for n, letter in enumerate(LETTERS) for number in by_letter[letter]]


class SpellingLists:
    """Lists such as " apple -> a\\n river -> r\\n", one asked word after the other.

    The model reads a list once. Whatever it holds at a word, and says after the arrow, it knows from the lines above.

    Attributes:
        answers: the 26 tokens of the letters, as they stand in a list; None if they are not one token each.
    """

    def __init__(self, tokenizer: Any, words: Sequence[Word]) -> None:
        def ids(text: str) -> list[int]:
            found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
            return found

        letters = [ids(LINE[1].format(letter=letter)) for letter in LETTERS]
        self.answers = [x[0] for x in letters] if all(len(x) == 1 for x in letters) else None
        self._arrow, self._end = ids(LINE[0]), ids(LINE[2])
        self._tokenizer = tokenizer
        self._words = words

    def context(self, asked: Sequence[Word], draw: random.Random) -> tuple[Context, list[int]]:
        """A list that begins with words drawn at random; and where in it the words asked for are."""
        assert self.answers is not None
        examples = draw.sample([w for w in self._words if w not in asked], EXAMPLES)
        tokens: list[int] = []
        places = []
        for word in (*examples, *asked):
            places.append(len(tokens))
            tokens += [word.token, *self._arrow, self.answers[word.letter], *self._end]
        context = context_of(tokens, self._tokenizer, 0)
        first = len(context.token_ids) - len(tokens)
        return context, [first + place for place in places[EXAMPLES:]]

    @property
    def to_answer(self) -> int:
        """From a word to where the model says its letter."""
        return len(self._arrow)


def read_lists(
    model: WholeModel, layer: int, lists: SpellingLists, words: Sequence[Word], spelt: bool, advance: Advance
) -> tuple[Float[Tensor, "words d_in"], Int[Tensor, " said"]]:
    """The residual stream at each word, and, if asked for, the letter that the model names after each.

    Args:
        model: the language model.
        layer: the block after which the residual stream is taken.
        lists: makes the prompts.
        words: in random order.
        spelt: whether to compute what it says, of the 26 letters.
        advance: told the number of words after each batch.
    """
    draw = random.Random(0)
    rows: list[Tensor] = []
    said: list[Tensor] = []
    for start in range(0, len(words), ASKED * LISTS_AT_ONCE):
        some = words[start : start + ASKED * LISTS_AT_ONCE]
        made = [lists.context(some[n : n + ASKED], draw) for n in range(0, len(some), ASKED)]
        stream = model.residuals([context for context, _ in made], layer)
        at = torch.tensor([(n, place) for n, (_, places) in enumerate(made) for place in places], device=stream.device)
        rows.append(stream[at[:, 0], at[:, 1]].float().cpu())
        if spelt:
            final = model.final(stream, layer)[at[:, 0], at[:, 1] + lists.to_answer]
            said.append(model.logits(final)[:, lists.answers].argmax(dim=1).cpu())
        advance(len(some), "")
    return torch.cat(rows), torch.cat(said) if said else torch.empty(0, dtype=torch.long)
