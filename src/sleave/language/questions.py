"""Multiple-choice questions, shaped like WMDP's and MMLU's: from files or the hub."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet
from pydantic import Field

from sleave.base.errors import SleaveError
from sleave.base.settings import Settings
from sleave.language.corpora import SHUFFLE_BUFFER, matching

LETTERS = "ABCDEFGH"


class QuestionSettings(Settings):
    """Where questions are read from: files, or a dataset on the hub."""

    paths: tuple[str, ...] = ()
    """Files or patterns (.jsonl, .parquet); a row has `question`, `choices` (a list) and `answer` (a number from 0)."""
    hub: str | None = None
    """A dataset on the hub in their place, such as `cais/wmdp`."""
    config: str | None = None
    """The dataset's configuration, such as `wmdp-bio`."""
    split: str = "test"
    """The dataset's split."""
    most: Annotated[int, Field(ge=1)] = 1000
    """At most so many questions are taken."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of which are taken, and of their order: files may be sorted by subject."""


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        question: its text.
        choices: the answers to choose from, 2 to 8.
        answer: the number of the right one.
    """

    question: str
    choices: tuple[str, ...]
    answer: int

    def prompt(self, order: Iterable[int] | None = None) -> str:
        """The question as a model is asked it, with the choices in some order; the answer is the next token.

        Reference: Hendrycks et al. 2021, "Measuring Massive Multitask Language Understanding", arXiv 2009.03300.
        """
        listed = zip(LETTERS, order or range(len(self.choices)), strict=False)
        lines = [f"{letter}. {self.choices[number]}" for letter, number in listed]
        return "\n".join([self.question.strip(), *lines, "Answer:"])


def read_question_files(settings: QuestionSettings) -> list[Question]:
    """The questions that the settings name, in an order that the seed fixes.

    Raises:
        SleaveError: a file is missing or unreadable, the hub is out of reach, or a row is no question.
    """
    if bool(settings.paths) == (settings.hub is not None):
        raise SleaveError("Questions come either from `paths` (.jsonl, .parquet) or from `hub`; give one of the two.")
    rows = _hub(settings) if settings.hub else _files(settings)
    found = [_question(row, source, number) for source, number, row in islice(rows, settings.most)]
    if not found:
        raise SleaveError(f"There are no questions in {', '.join(settings.paths) or settings.hub}.")
    return found


_Row = tuple[str, int, Any]  # where it is from, its number there, what it holds


def _files(settings: QuestionSettings) -> Iterable[_Row]:
    found: list[_Row] = []
    for pattern in settings.paths:
        if not (files := matching(pattern)):
            raise SleaveError(f"`{pattern}` matches no file; correct the path of the questions.")
        for path in files:
            found += [(str(path), number, row) for number, row in enumerate(_rows(path), start=1)]
    random.Random(settings.seed).shuffle(found)
    return found


def _rows(path: Path) -> list[Any]:
    try:
        if path.suffix == ".jsonl":
            # Not splitlines: it cuts at U+2028 too, which JSON allows in text.
            with path.open(encoding="utf-8-sig") as lines:
                return [json.loads(line) for line in lines if line.strip()]
        if path.suffix == ".parquet":
            rows: list[Any] = pa.parquet.read_table(path).to_pylist()
            return rows
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, pa.ArrowInvalid) as error:
        raise SleaveError(f"`{path}` cannot be read as {path.suffix} ({error}).") from error
    raise SleaveError(f"`{path}` is of no kind that holds questions; allowed: .jsonl and .parquet.")


def _hub(settings: QuestionSettings) -> Iterable[_Row]:
    import datasets

    try:
        rows = datasets.load_dataset(settings.hub, settings.config, split=settings.split, streaming=True)
        shuffled = rows.shuffle(seed=settings.seed, buffer_size=SHUFFLE_BUFFER)
        for number, row in enumerate(shuffled, start=1):
            yield f"hub:{settings.hub}", number, row
    except Exception as error:  # datasets raises anything from ConnectionError to KeyError
        raise SleaveError(
            f"The questions `{settings.hub}` (config {settings.config!r}, split {settings.split!r}) could not be read "
            f"from the hub: {error} Without a network, give files: `paths`."
        ) from error


def _question(row: Any, source: str, number: int) -> Question:
    fields = ("question", "choices", "answer")
    if not isinstance(row, Mapping) or any(field not in row for field in fields):
        has = f"has {', '.join(row)}" if isinstance(row, Mapping) else f"is {str(row)[:60]!r}"
        raise SleaveError(f"Question {number} of `{source}` must have question, choices and answer; it {has}.")
    question, choices, answer = (row[field] for field in fields)
    if not isinstance(question, str) or not isinstance(choices, list) or not 2 <= len(choices) <= len(LETTERS):
        raise SleaveError(
            f"Question {number} of `{source}`: `question` must be text and `choices` a list of 2 to {len(LETTERS)}."
        )
    if not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise SleaveError(
            f"Question {number} of `{source}`: `answer` (= {answer!r}) must be the number of a choice, 0 to "
            f"{len(choices) - 1}."
        )
    return Question(question, tuple(map(str, choices)), answer)
