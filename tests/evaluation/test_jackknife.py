"""Intervals against scipy and the textbook, and why rows are left out and not drawn again."""

import numpy as np
import pytest
import torch
from scipy import stats

from sleave.codes.codes import Codes
from sleave.evaluation.correlation import correlation, turned
from sleave.evaluation.information import Information
from sleave.evaluation.jackknife import interval, quantile_of_t, standard_error


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 9, 10, 29, 100])
def test_quantiles_of_t_are_scipys(degrees):
    assert quantile_of_t(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)
    assert quantile_of_t(degrees, 0.5) == pytest.approx(stats.t.ppf(0.75, degrees), rel=1e-9)


def test_of_a_mean_it_is_the_textbooks_interval():
    x = np.random.default_rng(0).normal(3, 2, 10)
    without = [float(np.delete(x, n).mean()) for n in range(10)]
    assert standard_error(without) == pytest.approx(stats.sem(x))
    expected = stats.t.interval(0.95, 9, loc=x.mean(), scale=stats.sem(x))
    assert interval(float(x.mean()), without) == pytest.approx(expected)


def test_it_covers_a_ratio_of_means():
    """Of correlated groups of rows, as FVU is; the truth is 0.25."""
    draw, covered = np.random.default_rng(1), 0
    for _ in range(400):
        variance = draw.gamma(5, 0.2, (10, 30))
        error = 0.25 * variance * draw.gamma(20, 1 / 20, (10, 1))
        without = [float(np.delete(error, n, 0).sum() / np.delete(variance, n, 0).sum()) for n in range(10)]
        low, high = interval(float(error.sum() / variance.sum()), without)
        covered += low <= 0.25 <= high
    assert 0.91 < covered / 400 < 0.985


def independent(rows=2000, d_sae=200, seed=0):
    """Features that have nothing to do with each other; each fires on 1% of the rows."""
    g = torch.Generator().manual_seed(seed)
    return torch.rand(rows, d_sae, generator=g) * (torch.rand(rows, d_sae, generator=g) < 0.01)


def figures(acts):
    codes, information = Codes.from_dense(acts), Information()
    information.update(codes)
    return correlation(codes, turned(codes)).p999_pearson, information.compute().p999


def test_rows_drawn_again_make_independent_features_look_dependent():
    """The numbers of docs/evaluation.md."""
    acts = independent()
    r, nats = figures(acts)
    drawn = np.array(
        [figures(acts[torch.from_numpy(np.random.default_rng(s).integers(0, 2000, 2000))]) for s in range(8)]
    )
    left_out = np.array([figures(acts[torch.arange(2000) % 10 != group]) for group in range(10)])
    assert drawn[:, 0].min() > 1.1 * r
    assert drawn[:, 1].min() > 1.3 * nats
    assert left_out[:, 0].mean() == pytest.approx(r, rel=0.1)
    low, high = interval(nats, left_out[:, 1].tolist())
    assert low < nats < high < drawn[:, 1].mean()
