from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sleave.base.errors import NotEnoughMemory
from sleave.codes.codes import Codes
from sleave.evaluation import correlation
from sleave.evaluation.correlation import turned

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "p9999": 0.9999}


def codes(rows=400, d_sae=50, seed=0):
    """Sparse codes that fire together now and then; 0 is dead, 1 is constant, 2 and 3 fire once, together."""
    g = torch.Generator().manual_seed(seed)
    common = torch.randn(rows, 4, generator=g) @ torch.randn(4, d_sae, generator=g)
    acts = (common / 2 + torch.randn(rows, d_sae, generator=g) - 1.5).relu()
    acts[:, 0] = 0
    acts[:, 1] = 2.7
    acts[:, 2:4] = 0
    acts[rows // 2, 2:4] = 1.0
    return acts


def measure(acts, cuts=()):
    whole = Codes.cat([Codes.from_dense(part) for part in acts.tensor_split(list(cuts)) if len(part)])
    return asdict(correlation.correlation(whole, turned(whole)))


def brute_force(acts):
    a = acts.double().numpy()
    upper = np.triu_indices(a.shape[1], k=1)
    often = ((a > 0).T.astype(int) @ (a > 0))[upper] >= 10

    floor = turned(Codes.from_dense(acts)).to_dense().double().numpy()

    def scores(columns):
        norm = np.linalg.norm(columns, axis=0)
        unit = np.where(norm > 1e-9, columns / np.where(norm > 0, norm, 1), 0)
        return np.abs(unit.T @ unit)[upper]

    def figures(columns, chance, name):
        score, by_chance = scores(columns), scores(chance)
        quantiles = {n: np.quantile(score, q, method="lower") for n, q in QUANTILES.items()}
        return {
            f"peak_{name}": score.max(),
            f"peak_{name}_often": score[often].max() if often.any() else 0,
            f"mean_{name}": score.mean(),
            **{f"{n}_{name}": value for n, value in quantiles.items()},
            f"excess_mean_{name}": score.mean() - by_chance.mean(),
            f"excess_p999_{name}": quantiles["p999"] - np.quantile(by_chance, 0.999, method="lower"),
        }

    return figures(a, floor, "cosine") | figures(a - a.mean(0), floor - floor.mean(0), "pearson")


@pytest.fixture(autouse=True, params=["walked", "dense"])
def way(request, monkeypatch):
    """Each way of computing it must give the same."""
    monkeypatch.setattr(correlation, "coactivations_are_few", lambda codes: request.param == "walked")
    return request.param


@pytest.mark.parametrize("d_sae", [4, 5, 50, 90])
def test_equals_numpy(d_sae):
    acts = codes(d_sae=d_sae)
    result, truth = measure(acts, (7, 100, 333)), brute_force(acts)
    assert result == pytest.approx(truth, abs=2e-7, rel=3e-6)
    assert result["peak_cosine"] == pytest.approx(1)
    assert result["peak_cosine_often"] < 0.99


def test_by_hand():
    acts = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]).repeat(10, 1)
    result = measure(acts)
    # cosine (0, 1) is 10 / sqrt(20 * 10); Pearson's p(1 - p) are 1/4, 3/16, 3/16; covariances 1/8, -1/8, -1/16
    assert result["peak_cosine"] == pytest.approx(2**-0.5)
    assert result["peak_cosine_often"] == pytest.approx(2**-0.5)
    assert result["mean_cosine"] == pytest.approx(2**-0.5 / 3)
    r = (1 / 8) / (3 / 64) ** 0.5
    assert result["peak_pearson"] == pytest.approx(r)
    assert result["mean_pearson"] == pytest.approx((2 * r + 1 / 3) / 3)
    assert result["p999_cosine"] == pytest.approx(0, abs=1e-7)  # "lower": rank 1 of 0, 1, 2


@pytest.mark.parametrize(("together", "counted"), [(9, False), (10, True)])
def test_a_peak_that_counts_needs_ten_rows(together, counted):
    acts = torch.zeros(100, 3)
    acts[:together, :2] = 1.0
    result = measure(acts, (5,))
    assert result["peak_cosine"] == pytest.approx(1)
    assert result["peak_cosine_often"] == pytest.approx(1.0 if counted else 0.0)
    assert result["peak_pearson_often"] == pytest.approx(1.0 if counted else 0.0)


def test_pearson_far_from_zero():
    """Features that always fire, around 3000 deviations: raw moments would lose everything."""
    g = torch.Generator().manual_seed(0)
    common = torch.randn(4000, 1, generator=g)
    acts = 3000 + torch.randn(4000, 3, generator=g) + common * torch.tensor([1.0, 0.5, 0.0])
    result, truth = measure(acts, range(0, 4000, 512)), brute_force(acts)
    assert truth["peak_pearson"] == pytest.approx(0.3315, abs=1e-3)
    assert result == pytest.approx(truth, rel=1e-5)


def test_constant_features_correlate_with_nothing():
    acts = torch.tensor([2.7, 0.1, 1000.3]).expand(500, 3)
    assert measure(acts, (1, 77, 301))["peak_pearson"] == 0
    assert measure(acts)["peak_cosine"] == pytest.approx(1)


def test_all_dead():
    assert set(measure(torch.zeros(20, 5)).values()) == {0.0}


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=6).map(sorted), seed=st.integers(0, 100))
def test_any_split_and_any_order_of_features_give_the_same(cuts, seed):
    acts = codes(60, 20, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(20))
    whole, parts, other = measure(acts), measure(acts, cuts), measure(acts[:, order], cuts)
    assert parts == pytest.approx(whole, abs=1e-5)
    for name in whole:
        if not name.startswith("excess"):  # other features are turned by other numbers of rows
            assert other[name] == pytest.approx(whole[name], abs=1e-5), name


def test_features_that_exclude_each_other():
    """The largest |r| is of pairs that never fire together, which nothing lists."""
    acts = torch.eye(3).repeat_interleave(torch.tensor([30, 25, 3]), dim=0)
    acts = torch.cat([acts, torch.zeros(4, 3)])
    result, truth = measure(acts, (9,)), brute_force(acts)
    assert truth["peak_pearson"] > 0.7
    assert result == pytest.approx(truth, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), groups=st.integers(2, 5))
def test_without_some_rows_is_as_if_they_had_never_been(seed, groups):
    """With features that are dead, constant or fire once, in a group that is left out."""
    acts = codes(60, 20, seed)
    acts[:, 4] *= torch.arange(60) % groups == 0
    whole, group = Codes.from_dense(acts), torch.arange(60) % groups
    floor = turned(whole)
    results = correlation.correlations(whole, floor, group)
    assert asdict(results[0]) == pytest.approx(measure(acts), abs=1e-5)
    for n, result in zip(range(groups), results[1:], strict=True):
        rest = correlation.correlation(whole.at_rows(group != n), floor.at_rows(group != n))
        assert asdict(result) == pytest.approx(asdict(rest), abs=1e-5)


def test_too_wide(monkeypatch, way):
    monkeypatch.setattr(correlation, "WIDEST", 8)
    measure(codes(d_sae=8))
    if way == "dense":
        with pytest.raises(NotEnoughMemory, match=r"co-activations of 9 features \(= d_sae\) are too many to list"):
            measure(codes(d_sae=9))


def test_turned_columns_are_the_same_but_for_where_they_begin():
    acts = codes(97, 30)
    other = turned(Codes.from_dense(acts)).to_dense()
    moved = 0
    for column, own in zip(other.t(), acts.t(), strict=True):
        shifts = [n for n in range(97) if torch.equal(column, own.roll(n))]
        assert shifts
        moved += shifts != [0]
    assert moved > 20


def test_nothing_is_above_chance_where_features_are_independent():
    g = torch.Generator().manual_seed(0)
    acts = (torch.randn(5000, 60, generator=g) - 1.3).relu()
    result = measure(acts)
    assert result["mean_pearson"] > 0.01
    assert abs(result["excess_mean_pearson"]) < 0.001
    acts[:, :5] = acts[:, 5:10]
    assert measure(acts)["excess_p999_pearson"] > 0.02
