"""The one kind of error that is the user's to mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SleaveError(ValueError):
    """Something the user gave cannot be used; the message says what was given, what is allowed and what to do.

    The command line prints it as one message; anything else that is raised is a bug and shows its traceback.
    """


class NotEnoughMemory(SleaveError):
    """What was asked for would not fit into the memory that is free."""


class SampleNeeded(SleaveError):
    """A file leaves open what only activations can tell; `sleave.load(path, sample=x)` takes some."""


def check_one_of(name: str, given: str, allowed: Iterable[str]) -> None:
    """Refuse a word that is not among those allowed.

    Raises:
        SleaveError: it is not.
    """
    names = list(allowed)
    if given not in names:
        raise SleaveError(f"`{name}` (= {given!r}) must be one of {', '.join(map(repr, names))}.")


def nearest(given: str, allowed: Iterable[str]) -> str:
    """A sentence that suggests the allowed name nearest to a mistaken one, or lists what is allowed."""
    names = sorted(allowed)
    close = difflib.get_close_matches(given, names, n=1, cutoff=0.6)
    return f"Did you mean `{close[0]}`?" if close else f"Allowed: {', '.join(f'`{n}`' for n in names)}."
