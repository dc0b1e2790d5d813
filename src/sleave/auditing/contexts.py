"""The texts that features fire most on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sleave.activations.rows import Origin
from sleave.auditing.results import Context
from sleave.codes.codes import Codes

DOCUMENTS = 4
BEFORE, AFTER = 12, 6  # tokens

TokenTexts = Callable[[Sequence[int]], Sequence[str]]


def top_contexts(
    codes: Codes, origin: Origin, token_texts: TokenTexts, pairs: Sequence[tuple[int, int]]
) -> dict[int, tuple[Context, ...]]:
    """For each feature of some pairs, its strongest token in each of 4 documents, strongest first, with its context.

    A context has the 12 tokens before it and the 6 after it, as far as they are of the same sequence, each with the
    codes of the feature and of all that it is paired with. Of equal codes, the earlier row is taken.

    Args:
        codes: of all rows.
        origin: which token each row is.
        token_texts: gives the texts of token ids.
        pairs: the pairs.
    """
    partners: dict[int, set[int]] = {}
    for i, j in pairs:
        partners.setdefault(i, {i}).add(j)
        partners.setdefault(j, {j}).add(i)
    windows = {
        feature: [(row, _window(origin, row)) for row in strongest_rows(codes, origin.document, feature)]
        for feature in sorted(partners)
    }
    ids = torch.cat([torch.empty(0, dtype=torch.int64), *(origin.token[w] for ws in windows.values() for _, w in ws)])
    known = ids.unique().tolist()
    texts = dict(zip(known, token_texts(known), strict=True))
    return {
        feature: tuple(_context(codes, origin, texts, row, window, sorted(partners[feature])) for row, window in found)
        for feature, found in windows.items()
    }


def strongest_rows(codes: Codes, document: Tensor, feature: int, documents: int = DOCUMENTS) -> list[int]:
    """The row that a feature fires most on in each of the documents where it fires most, strongest first."""
    start, order = codes.by_feature
    entries = order[start[feature] : start[feature + 1]]
    entries = entries[torch.argsort(codes.value[entries], descending=True, stable=True)]
    found: dict[int, int] = {}
    for row, where in zip(codes.row[entries].tolist(), document[codes.row[entries]].tolist(), strict=True):
        found.setdefault(where, row)
        if len(found) == documents:
            break
    return list(found.values())


def _window(origin: Origin, row: int) -> slice:
    """The rows around one that are of the same sequence: of the same document, with ascending positions."""
    low, high = max(0, row - BEFORE), min(len(origin.token), row + AFTER + 1)
    document, position = origin.document[low:high].tolist(), origin.position[low:high].tolist()
    breaks = [
        low + n + 1
        for n, ((d, p), (e, q)) in enumerate(pairwise(zip(document, position, strict=True)))
        if d != e or q <= p
    ]
    return slice(max([low, *(b for b in breaks if b <= row)]), min([high, *(b for b in breaks if b > row)]))


def _context(
    codes: Codes, origin: Origin, texts: Mapping[int, str], row: int, window: slice, features: Sequence[int]
) -> Context:
    return Context(
        document=int(origin.document[row]),
        positions=tuple(origin.position[window].tolist()),
        tokens=tuple(texts[t] for t in origin.token[window].tolist()),
        peak=row - window.start,
        codes={feature: _codes_on(codes, window, feature) for feature in features},
    )


def _codes_on(codes: Codes, window: slice, feature: int) -> tuple[float, ...]:
    entries = slice(int(codes.start[window.start]), int(codes.start[window.stop]))
    ours = codes.feature[entries] == feature
    values = codes.value.new_zeros(window.stop - window.start)
    values[codes.row[entries][ours] - window.start] = codes.value[entries][ours]
    return tuple(values.tolist())
