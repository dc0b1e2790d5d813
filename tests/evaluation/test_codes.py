import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sleave.evaluation.codes import CodeStatistics


def codes(rows, d_sae, seed=0):
    """Sparse codes; feature 0 never fires, feature 1 always does, feature 2 hardly."""
    g = torch.Generator().manual_seed(seed)
    acts = (torch.randn(rows, d_sae, generator=g) - 1.2).relu()
    acts[:, 0] = 0
    acts[:, 1] = 1 + torch.rand(rows, generator=g)
    acts[:, 2] = 0
    acts[0, 2] = 1e-7
    return acts


def measure(acts, norm, cuts=()):
    c = CodeStatistics(norm)
    for part in acts.tensor_split(list(cuts)):
        c.update(part)
    return c.compute()


def test_by_hand():
    acts = torch.zeros(20, 4)
    acts[:3, 0] = 2.0  # on 15% of the rows: dense
    acts[:2, 1] = 1.0  # on exactly 10%: not dense
    acts[5, 2] = 1e-5  # fires, but its mean is 5e-7: neither active nor dead
    result = measure(acts, torch.tensor([1.0, 10.0, 1.0, 1.0]))
    assert result.l0 == pytest.approx(6 / 20)
    assert result.l1 == pytest.approx((6 + 20 + 1e-5) / 20)
    assert (result.active, result.dead, result.dense) == (2, 1, 1)


def test_density_is_numpys_histogram_of_what_fires():
    acts = codes(300, 40)
    density = measure(acts, torch.ones(40)).density
    rate = (acts > 0).double().mean(0).numpy()
    counts, edges = np.histogram(np.log10(rate[rate > 0]), 40, (-6, 0))
    assert density.counts == tuple(counts)
    assert density.edges == pytest.approx(edges)
    assert density.below == 0
    assert sum(density.counts) == 39


def test_equals_numpy():
    acts, norm = codes(300, 12), torch.linspace(0.5, 2, 12)
    a = acts.double().numpy() * norm.double().numpy()
    result = measure(acts, norm, (10, 250))
    assert result.l0 == pytest.approx((a > 0).sum(1).mean())
    assert result.l1 == pytest.approx(a.sum(1).mean(), rel=1e-7)
    assert result.active == int((a.mean(0) > 1e-6).sum()) == 10
    assert result.dead == int((a == 0).all(0).sum()) == 1
    assert result.dense == int(((a > 0).mean(0) > 0.1).sum()) < 12


def test_a_code_and_its_decoder_row_may_share_a_factor():
    acts, factor = codes(50, 8), torch.linspace(0.1, 9, 8)
    plain, shared = measure(acts, torch.ones(8)), measure(acts * factor, 1 / factor)
    assert shared.l1 == pytest.approx(plain.l1)
    assert (shared.l0, shared.active, shared.dead) == (plain.l0, plain.active, plain.dead)


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 40), max_size=5).map(sorted), seed=st.integers(0, 100))
def test_any_split_and_any_order_of_features_give_the_same(cuts, seed):
    acts, norm = codes(40, 9, seed), torch.linspace(0.5, 2, 9)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(9))
    whole, other = measure(acts, norm), measure(acts[:, order], norm[order], cuts)
    assert other.l1 == pytest.approx(whole.l1, rel=1e-6)
    assert other.l0 == pytest.approx(whole.l0)
    assert (other.active, other.dead, other.dense) == (whole.active, whole.dead, whole.dense)
