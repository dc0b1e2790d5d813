"""Shares and quantiles of mutual information against scikit-learn, pair by pair."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from sleave.dependence.mutual_information import mutual_information
from sleave.evaluation.information import Information


def codes(rows=500, d_sae=24, seed=0):
    """Sparse codes with common causes; feature 0 never fires, feature 1 nearly always, 2 is 3 most of the time."""
    g = torch.Generator().manual_seed(seed)
    common = torch.randn(rows, 3, generator=g) @ torch.randn(3, d_sae, generator=g)
    acts = (common / 2 + torch.randn(rows, d_sae, generator=g) - 1.3).relu()
    acts[:, 0] = 0
    acts[:, 1] = (torch.rand(rows, generator=g) + 1) * (torch.rand(rows, generator=g) < 0.97)
    acts[: rows // 2, 2] = acts[: rows // 2, 3]
    return acts


def measure(acts, cuts=()):
    information = Information()
    for part in acts.tensor_split(list(cuts)):
        information.update(part)
    return information.compute()


def entropy(fires):
    return mutual_info_score(fires, fires)


def test_against_scikit_learn():
    acts = codes()
    fires = (acts > 0).numpy()
    result = measure(acts, (100, 350))
    pairs = list(combinations(range(fires.shape[1]), 2))
    plain = np.array([mutual_info_score(fires[:, i], fires[:, j]) for i, j in pairs])
    smaller = np.array([min(entropy(fires[:, i]), entropy(fires[:, j])) for i, j in pairs])
    share = np.divide(plain, smaller, out=np.zeros_like(plain), where=smaller > 1e-12)
    assert result.activity_redundant == pytest.approx((share > 0.1).mean())
    assert 0 < result.activity_redundant < 0.5
    upper = np.triu_indices(fires.shape[1], 1)
    activity = mutual_information(acts, "activity").to_dense().numpy()[upper]
    assert (result.activity_noticeable, result.activity_strong) == ((activity > 0.01).mean(), (activity > 0.05).mean())
    scores = mutual_information(acts).to_dense().numpy()[upper]
    assert (result.noticeable, result.strong) == ((scores > 0.01).mean(), (scores > 0.05).mean())
    assert 0 < result.strong < result.noticeable
    assert (result.mean, result.peak) == pytest.approx((scores.mean(), scores.max()))
    quantiles = (result.p50, result.p90, result.p99, result.p999, result.p9999)
    assert quantiles == pytest.approx(np.quantile(scores, (0.5, 0.9, 0.99, 0.999, 0.9999)))


def test_features_that_exclude_each_other_are_redundant():
    """They never fire together, so that nothing lists them."""
    acts = torch.eye(2).repeat_interleave(50, dim=0)
    assert measure(acts).activity_redundant == 1
    assert measure(torch.cat([acts, torch.zeros(5000, 2)])).activity_redundant == 0


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=5).map(sorted), seed=st.integers(0, 50))
def test_any_split_gives_the_same(cuts, seed):
    acts = codes(60, 9, seed)
    assert measure(acts, cuts) == measure(acts)
