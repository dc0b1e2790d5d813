"""Moments against numpy where raw moments fail; what each scaling promises."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sleave.activations.scaling import Moments, Scaling
from sleave.base.errors import SleaveError


def massive(rows: int = 200, d_in: int = 5) -> torch.Tensor:
    """Rows with mean/std = 3000."""
    return 3000 + torch.randn(rows, d_in, generator=torch.Generator().manual_seed(0))


def moments_of(x: torch.Tensor) -> Moments:
    moments = Moments.empty(x.shape[1])
    moments.update(x)
    return moments


@given(st.lists(st.integers(0, 200), max_size=6), st.randoms())
def test_moments_agree_with_numpy_for_any_split_and_merge_order(cuts, random):
    x = massive()
    edges = [0, *sorted(cuts), len(x)]
    parts = [moments_of(x[a:b]) for a, b in pairwise(edges)]
    random.shuffle(parts)
    moments = Moments.empty(5)
    for part in parts:
        moments.merge(part)
    exact = x.double().numpy()
    assert moments.count == 200
    np.testing.assert_allclose(moments.mean, exact.mean(0), rtol=1e-14)
    np.testing.assert_allclose(moments.variance, exact.var(0), rtol=1e-10)
    assert moments.mean_squared_norm == pytest.approx((exact**2).sum(1).mean(), rel=1e-13)


def test_moments_of_many_blocks():
    x = massive(rows=10_000)
    np.testing.assert_allclose(moments_of(x).variance, x.double().numpy().var(0), rtol=1e-10)


def test_moments_by_hand():
    moments = moments_of(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    assert moments.mean.tolist() == [2, 0]
    assert moments.m2.tolist() == [2, 0]
    assert moments.variance.tolist() == [1, 0]
    assert moments.mean_squared_norm == 5


@pytest.mark.parametrize("kind", ["none", "norm", "standardise"])
def test_invert_undoes_apply(kind):
    x = massive() * torch.tensor([1.0, 10.0, 0.1, -5.0, 1000.0])
    scaling = Scaling.from_moments(moments_of(x), kind)
    torch.testing.assert_close(scaling.invert(scaling.apply(x)), x)


def test_norm_scales_by_one_factor_to_d_in():
    x = torch.randn(300, 8) * torch.arange(1, 9) + 2
    scaling = Scaling.from_moments(moments_of(x), "norm")
    assert scaling.apply(x).square().sum(1).mean().item() == pytest.approx(8, rel=1e-5)
    assert scaling.shift.eq(0).all()
    assert scaling.scale.unique().numel() == 1


def test_standardise_gives_mean_0_and_variance_1():
    x = massive()
    y = Scaling.from_moments(moments_of(x), "standardise").apply(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(5), atol=2e-4, rtol=0)
    torch.testing.assert_close(y.var(0, correction=0), torch.ones(5), atol=1e-3, rtol=0)


def test_a_constant_dimension_is_only_centred():
    x = massive()
    x[:, 2] = 0.1
    scaling = Scaling.from_moments(moments_of(x), "standardise")
    assert scaling.scale[2] == 1
    assert scaling.apply(x)[:, 2].abs().max() == 0


def test_none_is_the_identity():
    x = massive()
    assert Scaling.from_moments(moments_of(x), "none").apply(x).equal(x)


@pytest.mark.parametrize("kind", ["norm", "standardise"])
@pytest.mark.parametrize("rows", [0, 4])
def test_nothing_but_zeros_cannot_be_scaled(kind, rows):
    with pytest.raises(SleaveError, match=rf"all of the {rows} training rows are zero.*set `scaling` to 'none'"):
        Scaling.from_moments(moments_of(torch.zeros(rows, 3)), kind)
