"""Mean and quantiles over all pairs against a list of all of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sleave.evaluation.all_pairs import AllPairs


@settings(max_examples=60, deadline=None)
@given(
    d_sae=st.integers(2, 25),
    listed=st.floats(0, 1),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 1000),
    q=st.sampled_from([0.001, 0.3, 0.5, 0.9, 0.999]),
)
def test_equals_numpy(d_sae, listed, zeros, seed, q):
    draw = np.random.default_rng(seed)
    share = np.where(draw.random(d_sae) < zeros, 0, draw.random(d_sae).round(1 + seed % 2))  # with ties
    i, j = np.triu_indices(d_sae, 1)
    product = share[i] * share[j]
    score = product.copy()
    some = draw.random(len(i)) < listed
    score[some] = draw.random(some.sum())
    pairs = AllPairs(*(torch.from_numpy(x) for x in (score[some], product[some], share)))
    assert pairs.num_pairs == len(score)
    assert pairs.mean() == pytest.approx(score.mean(), abs=1e-12)
    assert pairs.quantile(q) == pytest.approx(np.quantile(score, q, method="lower"), abs=1e-12)
    assert pairs.peak == pytest.approx(score.max(), abs=1e-12)
