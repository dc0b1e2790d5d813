"""The cases and the oracle that benchmarks/estimator_validation.py holds sleave's estimators against."""

import math

import numpy as np
import pytest
from benchmarks.truth import (
    by_activity,
    cases,
    gaussian_information,
    gaussians,
    mixed_ksg,
    table_information,
    thresholded_gaussians,
    thresholded_information,
)
from scipy.integrate import dblquad
from scipy.special import digamma, ndtri
from scipy.stats import multivariate_normal, norm
from sklearn.feature_selection import mutual_info_regression
from sklearn.metrics import mutual_info_score

ALL = list(cases())


def ranked(values: np.ndarray, bins: int) -> np.ndarray:
    """Zero where zero, otherwise the equal-count bin from 1."""
    active = values != 0
    symbol = np.zeros(len(values), dtype=int)
    symbol[active] = 1 + np.argsort(np.argsort(values[active])) * bins // active.sum()
    return symbol


@pytest.mark.parametrize(("rho", "a", "b"), [(0.9, 0.1, 0.1), (0.6, 0.02, 0.5), (0.3, 0.5, 0.5), (-0.6, 0.5, 0.2)])
def test_thresholded_truth_is_the_direct_double_integral(rho, a, b):
    t, u = -ndtri(a), -ndtri(b)
    joint = multivariate_normal([0, 0], [[1, rho], [rho, 1]])
    sd = math.sqrt(1 - rho**2)

    def plane(y, x):
        p = math.exp(-(x * x - 2 * rho * x * y + y * y) / (2 * sd**2)) / (2 * math.pi * sd)
        alone = math.exp(-(x * x + y * y) / 2) / (2 * math.pi)
        return p * math.log(p / alone) if p > 0 else 0.0

    def edge(t, u, b):
        x = np.linspace(t, 9, 20_001)
        silent = norm.cdf((u - rho * x) / sd)
        return np.trapezoid(norm.pdf(x) * silent * np.log(silent / (1 - b) + 1e-300), x)

    neither = joint.cdf([t, u])
    truth = neither * math.log(neither / ((1 - a) * (1 - b))) + edge(t, u, b) + edge(u, t, a)
    truth += dblquad(plane, t, 8, u, 8, epsabs=1e-7)[0]
    assert thresholded_information(rho, a, b) == pytest.approx(truth, abs=1e-5)


@pytest.mark.parametrize(("rho", "density"), [(0.9, 0.1), (0.6, 0.5), (0.9, 0.5)])
def test_thresholded_truth_is_what_a_million_rows_show(rho, density):
    case = thresholded_gaussians("", rho, density, density)
    x, y = case.draw(1_000_000, np.random.default_rng(0)).T
    # 40 bins lose little, and a table of 1600 cells adds 1600 / 2 million.
    assert mutual_info_score(ranked(x, 40), ranked(y, 40)) == pytest.approx(case.truth, rel=0.015)


def test_thresholded_truth_of_the_design():
    assert thresholded_information(0.9, 0.1, 0.1) == pytest.approx(0.163, abs=5e-4)
    assert thresholded_information(0.0, 0.1, 0.1) == 0


def test_thresholded_truth_nears_that_of_gaussians_as_all_rows_become_active():
    near = 1 - 1e-9
    assert thresholded_information(0.9, near, near) == pytest.approx(gaussian_information(0.9), abs=1e-6)
    assert gaussian_information(0.6) == pytest.approx(0.2231, abs=1e-4)


@pytest.mark.parametrize("case", ALL, ids=lambda c: f"{c.name} {c.density} {c.rho}")
def test_a_case_draws_rows_of_its_density(case):
    drawn = case.draw(50_000, np.random.default_rng(0))
    assert drawn.shape == (50_000, 2)
    assert (drawn != 0).mean(axis=0).min() == pytest.approx(case.density, abs=0.01)


@pytest.mark.parametrize("case", [c for c in ALL if "constant" in c.name], ids=lambda c: f"{c.name} {c.density}")
def test_truth_of_constant_values_is_what_their_counts_show(case):
    x, y = case.draw(200_000, np.random.default_rng(0)).T
    assert mutual_info_score(x, y) == pytest.approx(case.truth, abs=0.005)


@pytest.mark.parametrize(("density", "entropy"), [(0.5, math.log(2)), (0.1, 0.3251)])
def test_truth_of_duplicates(density, entropy):
    assert by_activity("", density, density, density, constant=True).truth == pytest.approx(entropy, abs=1e-4)
    continuous = by_activity("", density, density, density, rho=1.0)
    assert math.isinf(continuous.truth)
    assert continuous.at_least == pytest.approx(entropy, abs=1e-4)
    x, y = continuous.draw(100, np.random.default_rng(0)).T
    np.testing.assert_array_equal(x, y)


def test_truth_of_activity_and_values_is_their_sum():
    case = by_activity("", 0.5, 0.5, 0.25, rho=0.9)
    assert case.truth == pytest.approx(0.25 * gaussian_information(0.9))
    x, y = case.draw(400_000, np.random.default_rng(0)).T
    assert mutual_info_score(ranked(x, 40), ranked(y, 40)) == pytest.approx(case.truth, rel=0.03)
    assert table_information(np.full((2, 2), 0.25)) == 0


@pytest.mark.parametrize(
    "case",
    [
        gaussians(0.6),
        thresholded_gaussians("", 0.9, 0.2, 0.5),
        by_activity("", 0.3, 0.3, 0.2, constant=True),
        by_activity("", 0.3, 0.3, 0.2, 0.9),
        by_activity("", 0.02, 0.02, 0.0, constant=True),  # a value on fewer rows than k
    ],
    ids=["gaussian", "thresholded", "discrete", "mixed", "rare"],
)
def test_mixed_ksg_is_what_the_paper_says(case):
    x, y = case.draw(200, np.random.default_rng(0)).T
    k, total = 5, 0.0
    for i in range(200):
        dx, dy = abs(x - x[i]), abs(y - y[i])
        d = np.maximum(dx, dy)
        nearest = np.sort(d)[k]  # the point itself is the 0th
        if nearest == 0:
            total += digamma((d == 0).sum()) - digamma((dx == 0).sum()) - digamma((dy == 0).sum())
        else:
            total += digamma(k) - digamma((dx < nearest - 1e-14).sum()) - digamma((dy < nearest - 1e-14).sum())
    assert mixed_ksg(x, y, k) == pytest.approx(total / 200 + math.log(200), abs=1e-9)


@pytest.mark.parametrize(
    "case",
    [
        gaussians(0.0),
        gaussians(0.9),
        thresholded_gaussians("", 0.9, 0.1, 0.1),
        by_activity("", 0.1, 0.1, 0.05, constant=True),
        by_activity("", 0.5, 0.5, 0.5, 0.9),
    ],
    ids=["independent", "gaussian", "thresholded", "discrete", "mixed"],
)
def test_mixed_ksg_finds_the_truth(case):
    generator = np.random.default_rng(0)
    estimates = [mixed_ksg(*case.draw(2000, generator).T) for _ in range(10)]
    assert np.mean(estimates) == pytest.approx(case.truth, abs=max(0.02, 0.07 * case.truth))


def test_mixed_ksg_agrees_with_scikit_learn_where_nothing_is_tied():
    x, y = gaussians(0.9).draw(4000, np.random.default_rng(0)).T
    other = mutual_info_regression(x[:, None], y, n_neighbors=5, random_state=0)[0]
    assert mixed_ksg(x, y) == pytest.approx(other, abs=0.03)
