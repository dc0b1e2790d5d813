"""Forgetting answers to multiple-choice questions: the published form, for models that can answer them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import permutations

import torch
from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.base.progress import progress
from sleave.language.contexts import Context, context_of
from sleave.language.questions import LETTERS, Question
from sleave.language.whole import WholeModel
from sleave.unlearning.documents import Documents, Judge
from sleave.unlearning.questions import Questions
from sleave.unlearning.settings import MultipleChoiceSettings

SIDES = ("forget", "retain")


def read_multiple_choice(
    model: WholeModel,
    forget: Sequence[Question],
    retain: Sequence[Question],
    layer: int,
    settings: MultipleChoiceSettings,
    max_norm_ratio: float | None = None,
) -> Questions:
    """Ask the clean model, and keep as known what it gets right whatever the order of the choices.

    The first `train` questions of each side are what features are chosen by; they are not asked.

    Raises:
        SleaveError: a side has no more questions than `train`, or the tokenizer cuts the letters into pieces.
    """
    for name, side in zip(SIDES, (forget, retain), strict=True):
        if len(side) <= settings.train:
            raise SleaveError(
                f"Of the questions to {name} there are {len(side)}, and features alone are chosen by the first "
                f"{settings.train} (`train`). Give more questions, or lower train."
            )
    questions = [*forget, *retain]
    letters = _letter_tokens(model, max(len(q.choices) for q in questions))
    asked = [_context(model, q.prompt(), n) for n, q in enumerate(questions)]
    with progress("Reading questions", len(asked), "questions") as advance:
        documents = Documents.read(model, asked, layer, max_norm_ratio, lambda done: advance(done, ""))
    judge = letter_judge(model, letters, [q.answer for q in questions], [len(q.choices) for q in questions])
    split = len(forget)
    own = (tuple(range(split)), tuple(range(split, len(questions))))
    train = tuple(o[: settings.train] for o in own)
    everything = range(len(questions))
    answered = documents.right(everything, judge, documents.finals(everything))  # only those right are asked further
    known = tuple(
        _known(model, questions, [d for d in o[settings.train :] if answered[d]], letters, layer, settings) for o in own
    )
    topic = torch.tensor([int(d >= split) for d in range(len(questions))])
    return Questions(documents, SIDES, topic, train, known, judge)


def letter_judge(model: WholeModel, letters: Tensor, answers: Sequence[int], counts: Sequence[int]) -> Judge:
    """Says of each document whether the letter of its answer is the likeliest of all its choices' letters."""

    def judge(batch: Sequence[int], finals: Sequence[Tensor]) -> Tensor:
        logits = model.logits(torch.stack([final[-1] for final in finals])).cpu()[:, letters]
        chosen = [int(row[: counts[d]].argmax()) for d, row in zip(batch, logits, strict=True)]
        return torch.tensor([float(c == answers[d]) for d, c in zip(batch, chosen, strict=True)])

    return judge


def _known(
    model: WholeModel,
    questions: Sequence[Question],
    some: Sequence[int],
    letters: Tensor,
    layer: int,
    settings: MultipleChoiceSettings,
) -> tuple[int, ...]:
    """Which questions the clean model gets right with the choices in each of some orders; as many as are needed."""
    known: list[int] = []
    with progress("Asking questions in other orders", len(some), "questions") as advance:
        for d in some:
            if len(known) < 2 * settings.documents and _knows(model, questions[d], letters, layer, settings.orders):
                known.append(d)
            advance(1, f"{len(known)} known")
    return tuple(known)


def _knows(model: WholeModel, question: Question, letters: Tensor, layer: int, orders: int) -> bool:
    ways = orders_of(len(question.choices), orders)
    asked = [_context(model, question.prompt(way), n) for n, way in enumerate(ways)]
    documents = Documents.read(model, asked, layer)
    judge = letter_judge(model, letters, [w.index(question.answer) for w in ways], [len(w) for w in ways])
    everything = range(len(ways))
    return bool((documents.right(everything, judge, documents.finals(everything)) == 1).all())


def orders_of(choices: int, most: int) -> list[tuple[int, ...]]:
    """All orders of some choices, or so many of them, as they are first, then drawn at random once and for all."""
    first, *others = permutations(range(choices))
    return [first, *(others if len(others) < most else random.Random(0).sample(others, most - 1))]


def _letter_tokens(model: WholeModel, count: int) -> Tensor:
    """The tokens of the letters as they follow `Answer:`."""
    for before in (" ", ""):
        ids = [model.tokenizer(before + x, add_special_tokens=False)["input_ids"] for x in LETTERS[:count]]
        if all(len(i) == 1 for i in ids):
            return torch.tensor([i[0] for i in ids])
    raise SleaveError(f"The tokenizer of {model.name} cuts the letters of the choices into pieces.")


def _context(model: WholeModel, text: str, number: int) -> Context:
    ids = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return context_of(ids, model.tokenizer, number)
