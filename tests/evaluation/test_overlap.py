"""Whether two runs chose the same pairs."""

import pytest
import torch

from sleave.base.errors import SleaveError
from sleave.dependence.pairs import Pairs
from sleave.evaluation.overlap import counterparts, overlap


def pairs(*both):
    i, j = zip(*both, strict=True)
    return Pairs(torch.tensor(i), torch.tensor(j), torch.ones(len(i)))


def test_a_permuted_run_is_the_same():
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(12, 30, generator=generator)
    order = torch.randperm(12, generator=generator)
    place = torch.argsort(order)  # feature k of the first is number place[k] of the second
    assert torch.equal(counterparts(W, 3 * W[order], 0.9), place)
    first = pairs((0, 1), (2, 5), (3, 4))
    moved = [sorted(place[torch.stack([i, j])].tolist()) for i, j in zip(first.i, first.j, strict=True)]
    result = overlap(W, W[order], (first, pairs(*moved)))
    assert (result.matched, result.pairs, result.jaccard) == (1.0, 3, 1.0)
    half = overlap(W, W[order], (first, pairs(*moved[:2], sorted(place[torch.tensor([6, 7])].tolist()))))
    assert half.jaccard == 2 / 4
    assert half.chance == pytest.approx((9 / 66) / (6 - 9 / 66))


def test_pairs_of_features_without_a_counterpart_do_not_count():
    W, other = torch.eye(6), torch.eye(6)
    other[0] = torch.tensor([0.0, 0, 0, 0, 0, -1.0])
    result = overlap(W, other, (pairs((0, 1), (1, 2)), pairs((0, 2), (1, 2))))
    assert result.matched == 5 / 6
    assert (result.pairs, result.jaccard) == (1, 1.0)


def test_nothing_in_common():
    result = overlap(torch.eye(4)[:2], torch.eye(4)[2:], (pairs((0, 1)), pairs((0, 1))))
    assert result.matched == 0
    assert result.jaccard != result.jaccard


def test_widths_must_agree():
    with pytest.raises(SleaveError, match="different widths, 3 and 4"):
        overlap(torch.eye(3), torch.eye(4), (pairs((0, 1)), pairs((0, 1))))
