from itertools import combinations

import pytest
import torch

from sleave.base.errors import SleaveError
from sleave.dependence.pairs import Pairs, num_pairs, top_count, unrank


def pairs(*which: tuple[int, int]) -> Pairs:
    i, j = torch.tensor(which, dtype=torch.int64).reshape(-1, 2).unbind(1)
    return Pairs(i, j, torch.ones(len(which)))


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


def test_num_features():
    assert pairs((0, 1), (1, 2), (0, 2)).num_features == 3
