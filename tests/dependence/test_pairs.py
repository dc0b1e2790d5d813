from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sleave.base.errors import SleaveError
from sleave.codes.compiled import plain_torch
from sleave.dependence.pairs import Pairs, num_pairs, reference_both_ways, top_count, unrank


def pairs(*which: tuple[int, int]) -> Pairs:
    i, j = torch.tensor(which, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return Pairs.of(i, j, torch.ones(len(which)))


def some(d_sae: int, share: float, seed: int) -> Pairs:
    g = torch.Generator().manual_seed(seed)
    i, j = torch.triu_indices(d_sae, d_sae, offset=1)
    kept = (torch.rand(len(i), generator=g) < share).nonzero().flatten()
    kept = kept[torch.randperm(len(kept), generator=g)]
    return Pairs.of(i[kept], j[kept], torch.randint(0, 5, (len(kept),), generator=g).double())


@pytest.mark.parametrize("d_sae", [2, 3, 7, 50])
def test_unrank_is_the_lexicographic_order(d_sae):
    i, j = unrank(torch.arange(num_pairs(d_sae)), d_sae)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == list(combinations(range(d_sae), 2))


def test_unrank_is_exact_where_floating_point_would_not_be():
    d_sae = 1 << 20
    last = num_pairs(d_sae) - 1
    i, j = unrank(torch.tensor([last - 1, last]), d_sae)
    assert (i.tolist(), j.tolist()) == ([d_sae - 3, d_sae - 2], [d_sae - 1, d_sae - 1])


def test_top_count():
    assert top_count(0.001, 2304) == 2653  # 0.1% of 2,653,056
    assert top_count(0.001, 4) == 1  # never nothing
    assert top_count(1.0, 4) == 6


@pytest.mark.parametrize("top", [0, -0.1, 1.5, float("nan")])
def test_top_count_refuses(top):
    with pytest.raises(SleaveError, match=r"must be in \(0, 1\]"):
        top_count(top, 10)


def test_jaccard():
    assert pairs((0, 1), (2, 5)).jaccard(pairs((2, 5), (1, 3))) == pytest.approx(1 / 3)
    assert pairs().jaccard(pairs()) == 1
    assert pairs((0, 1)).jaccard(pairs()) == 0


@settings(deadline=None)
@given(st.integers(2, 12), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99), st.booleans())
def test_jaccard_agrees_with_sets(d_sae, share, other_share, seed, in_order):
    one, other = some(d_sae, share, seed), some(d_sae, other_share, seed + 1)
    expected = [set(zip(p.i.tolist(), p.j.tolist(), strict=True)) for p in (one, other)]
    if not in_order:
        one = Pairs(one.i.flip(0), one.j.flip(0), one.score)
    both, either = expected[0] & expected[1], expected[0] | expected[1]
    assert one.jaccard(other) == (len(both) / len(either) if either else 1)
    with plain_torch():
        assert one.jaccard(other) == (len(both) / len(either) if either else 1)


def test_num_features():
    assert pairs((0, 1), (1, 2), (0, 2)).num_features == 3


def test_pairs_are_put_in_order():
    put = Pairs.of(torch.tensor([2, 0, 0]), torch.tensor([3, 5, 1]), torch.tensor([0.3, 0.1, 0.2]))
    assert (put.i.tolist(), put.j.tolist()) == ([0, 0, 2], [1, 5, 3])
    assert put.score.tolist() == pytest.approx([0.2, 0.1, 0.3])


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0, 1), st.integers(0, 9), st.integers(0, 4))
def test_neighbours_of_every_feature(d_sae, share, seed, more):
    """Against lists made by looking at every pair, and the reference for other devices."""
    pairs = some(d_sae, share, seed)
    start, partner, number = pairs.neighbours(d_sae + more)
    assert len(start) == d_sae + more + 1
    for feature in range(d_sae + more):
        own = slice(int(start[feature]), int(start[feature + 1]))
        wanted = [
            (j if i == feature else i, n)
            for n, (i, j) in enumerate(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True))
            if feature in (i, j)
        ]
        assert list(zip(partner[own].tolist(), number[own].tolist(), strict=True)) == sorted(wanted)
    reference = reference_both_ways(pairs.i, pairs.j)
    assert torch.equal(partner, reference[0])
    assert torch.equal(number, reference[1])


@settings(deadline=None)
@given(st.integers(2, 30), st.integers(0, 9), st.integers(1, 100))
def test_the_strongest_and_their_ranks(d_sae, seed, count):
    """Ties, of which there are many here, go to the first in the order of (i, j)."""
    pairs = some(d_sae, 0.5, seed)
    every = sorted((-s, i, j) for i, j, s in zip(*(x.tolist() for x in (pairs.i, pairs.j, pairs.score)), strict=True))
    assert [(-s, i, j) for i, j, s in zip(*(x.tolist() for x in pairs.ranked()), strict=True)] == every
    best = pairs.strongest(count)
    assert list(zip(best.i.tolist(), best.j.tolist(), strict=True)) == sorted((i, j) for _, i, j in every[:count])


def test_numbers_of_pairs_follow_changes_in_place():
    pairs = some(12, 0.5, 0)
    value = torch.rand(len(pairs), dtype=torch.float64)
    _, _, number = pairs.neighbours(12)
    assert torch.equal(pairs.of_neighbours(value), value[number])
    value.mul_(2)
    assert torch.equal(pairs.of_neighbours(value), value[number])
    assert torch.equal(pairs.of_neighbours(value.clone()), value[number])


def test_pairs_out_of_order_have_the_same_neighbours():
    pairs = some(12, 0.5, 0)
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(1))
    mixed = Pairs(pairs.i[order], pairs.j[order], pairs.score[order])
    (start, partner, number), (own_start, own_partner, own) = pairs.neighbours(12), mixed.neighbours(12)
    assert torch.equal(start, own_start)
    assert torch.equal(partner, own_partner)
    assert torch.equal(number, order[own])
    assert mixed.jaccard(pairs) == 1


def test_figures_of_no_pairs():
    assert pairs().figures == {"pairs": 0, "unique_features": 0}
    assert len(pairs((0, 1)).strongest(0)) == 0
