"""T and its stability against every pair."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sleave.evaluation import top_pairs
from sleave.evaluation.top_pairs import TopPairs


def codes(rows=300, d_sae=60, seed=0):
    g = torch.Generator().manual_seed(seed)
    common = torch.randn(rows, 4, generator=g) @ torch.randn(4, d_sae, generator=g)
    return (common / 2 + torch.randn(rows, d_sae, generator=g) - 1.5).relu()


def measure(acts, half, cuts=()):
    top = TopPairs()
    for part, own in zip(acts.tensor_split(list(cuts)), half.tensor_split(list(cuts)), strict=True):
        top.update(part, own)
    return top.compute()


def best(acts, count):
    norm = acts.norm(dim=0, keepdim=True)
    unit = (acts / torch.where(norm > 0, norm, 1)).double()
    i, j = np.triu_indices(acts.shape[1], 1)
    score = (unit.t() @ unit).numpy()[i, j]
    chosen = np.argsort(-score, kind="stable")[:count]
    return {(i[n], j[n]) for n in chosen if score[n] > 0}


def test_by_brute_force(monkeypatch):
    monkeypatch.setattr(top_pairs, "TOP", 0.01)
    acts, half = codes(), torch.arange(300) % 3 == 0
    result = measure(acts, half, (50, 299))
    whole, a, b = (best(x, round(0.01 * 60 * 59 / 2)) for x in (acts, acts[half], acts[~half]))
    assert result.pairs == len(whole) == 18
    assert result.unique_features == len({feature for pair in whole for feature in pair})
    assert result.stability == pytest.approx(len(a & b) / len(a | b))
    assert 0 < result.stability < 1


def test_pairs_that_never_fire_together_are_not_among_them(monkeypatch):
    monkeypatch.setattr(top_pairs, "TOP", 0.9)
    acts = torch.zeros(40, 30)
    acts[:5, 3:5] = 1.0
    result = measure(acts, torch.arange(40) % 2 == 0)
    assert (result.pairs, result.unique_features, result.stability) == (1, 2, 1.0)


def test_one_half_only_has_no_stability():
    assert measure(codes(), torch.ones(300, dtype=torch.bool)).stability is None


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 80), max_size=5).map(sorted), seed=st.integers(0, 50))
def test_any_split_gives_the_same(cuts, seed):
    acts, half = codes(80, 20, seed), torch.arange(80) // 10 % 2 == 0
    assert measure(acts, half, cuts) == measure(acts, half)
