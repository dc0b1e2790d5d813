"""Top contexts against brute force, and the rows of a store."""

from __future__ import annotations

import pytest
import torch
import toy_store
from hypothesis import given, settings
from hypothesis import strategies as st

from sleave.activations.rows import Origin, Rows
from sleave.activations.store import Store
from sleave.auditing.contexts import AFTER, BEFORE, DOCUMENTS, strongest_rows, top_contexts
from sleave.base.errors import SleaveError
from sleave.codes.codes import Codes

TEXTS = "abcdefghij"


def texts(ids):
    return [TEXTS[i] for i in ids]


def random_case(seed, rows=120, documents=9):
    """Codes of few different values (ties), and documents of several contexts, with gaps in their positions."""
    g = torch.Generator().manual_seed(seed)
    acts = torch.randint(-3, 4, (rows, 5), generator=g).float().relu()
    acts[:, 4] = 0
    document = torch.randint(0, documents, (rows,), generator=g).sort().values
    position = torch.zeros(rows, dtype=torch.int64)
    for r in range(1, rows):
        begins = document[r] != document[r - 1] or torch.rand((), generator=g) < 0.05
        position[r] = 1 if begins else position[r - 1] + 1 + int(torch.rand((), generator=g) < 0.1)
    return acts, Origin(torch.randint(0, 10, (rows,), generator=g), document, position)


def brute(acts, origin, feature, partners):
    """What `top_contexts` says of a feature, row by row."""
    best = sorted((r for r in range(len(acts)) if acts[r, feature] > 0), key=lambda r: (-float(acts[r, feature]), r))
    found, seen = [], set()
    for r in best:
        if int(origin.document[r]) in seen or len(seen) == DOCUMENTS:
            continue
        seen.add(int(origin.document[r]))

        def linked(a):
            return origin.document[a] == origin.document[a + 1] and origin.position[a] < origin.position[a + 1]

        low = high = r
        while low > 0 and r - low < BEFORE and linked(low - 1):
            low -= 1
        while high < len(acts) - 1 and high - r < AFTER and linked(high):
            high += 1
        window = range(low, high + 1)
        found.append(
            {
                "document": int(origin.document[r]),
                "positions": tuple(int(origin.position[w]) for w in window),
                "tokens": tuple(TEXTS[int(origin.token[w])] for w in window),
                "peak": r - low,
                "codes": {p: tuple(float(acts[w, p]) for w in window) for p in partners},
            }
        )
    return found


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000))
def test_contexts(seed):
    acts, origin = random_case(seed)
    pairs = [(0, 2), (0, 3), (2, 4)]
    found = top_contexts(Codes.from_dense(acts), origin, texts, pairs)
    assert found.keys() == {0, 2, 3, 4}
    for feature, partners in ((0, (0, 2, 3)), (2, (0, 2, 4)), (3, (0, 3)), (4, (2, 4))):
        mine = [vars(context) for context in found[feature]]
        assert mine == brute(acts, origin, feature, partners)
    assert found[4] == ()  # it never fires


def test_as_many_documents_as_there_are():
    acts = torch.tensor([[3.0, 0], [2, 0], [5, 0], [1, 0], [0, 1]])
    codes, document = Codes.from_dense(acts), torch.tensor([7, 7, 8, 9, 9])
    assert strongest_rows(codes, document, 0) == [2, 0, 3]
    assert strongest_rows(codes, document, 0, documents=1) == [2]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "store"
    toy_store.fill(path, 3)
    return Store.open(path)


@pytest.mark.parametrize(
    ("splits", "most", "count"),
    [(("heldout",), 100, 9), (("train",), 10, 10), (("train", "heldout"), 100, 30), (("train", "heldout"), 23, 23)],
)
def test_rows_of_a_store(store, splits, most, count):
    rows = Rows.of_store(store, 8, splits, most)
    expected = torch.cat([torch.cat(list(store.layer(8, s).blocks())) for s in splits])[:count]
    for _ in range(2):  # as often as wanted
        assert torch.equal(torch.cat(list(rows.blocks(4))), expected)
    assert max(len(block) for block in rows.blocks(4)) == 4
    assert (rows.count, rows.d_in) == (count, 6)
    for name in ("token", "document", "position"):
        column = torch.cat([getattr(store.tokens(s), name).rows(torch.arange(store.num_rows(s))) for s in splits])
        assert torch.equal(getattr(rows.origin, name), column[:count])


def test_a_split_without_rows(store):
    with pytest.raises(SleaveError, match="has no rows of heldout"):
        Rows.of_store(store, 8, ("heldout",), 0)
    with pytest.raises(SleaveError, match=r"`layer` \(= 5\) is not in the activation store"):
        Rows.of_store(store, 5, ("heldout",), 9)
