"""Pairs of features whose mutual information is known, in nats, and estimators to hold sleave's against.

A case is a sampler and the truth: by quadrature for thresholded Gaussians, in closed form for the others. Densities are
shares of rows on which a feature is active (not zero).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad
from scipy.spatial import cKDTree
from scipy.special import digamma, ndtr, ndtri, xlogy
from sklearn.feature_selection import mutual_info_regression

Draw = Callable[[int, np.random.Generator], np.ndarray]
TAIL = 12.0  # standard deviations; what lies beyond is below 1e-32


@dataclass(frozen=True)
class Case:
    """One pair of features.

    Attributes:
        name: what kind of pair.
        density: the share of rows on which the rarer of the two is active.
        rho: the correlation of the Gaussians that values come from (0: none).
        truth: mutual information in nats; infinite for continuous duplicates.
        draw: (N, generator) to an array (N, 2) of independent rows.
        at_least: for an infinite truth, the entropy of being active, which any estimate should reach.
    """

    name: str
    density: float
    rho: float
    truth: float
    draw: Draw
    at_least: float = math.nan


def cases() -> Iterator[Case]:
    """All cases of the validation table."""
    for density in (0.01, 0.02, 0.05, 0.1, 0.5):
        for rho in (0.0, 0.3, 0.6, 0.9):
            yield thresholded_gaussians("thresholded", rho, density, density)
    yield thresholded_gaussians("thresholded, other 50%", 0.9, 0.02, 0.5)
    yield thresholded_gaussians("thresholded, other 50%", 0.9, 0.1, 0.5)
    for rho in (0.0, 0.3, 0.6, 0.9):
        yield gaussians(rho)
    for values, rho in (("constant", 0.0), ("continuous", 0.0), ("continuous", 0.9)):
        for density in (0.02, 0.1, 0.5):
            yield by_activity(f"same rows, {values}", density, density, density, rho, values == "constant")
        yield by_activity(f"half shared, {values}", 0.1, 0.1, 0.05, rho, values == "constant")
        yield by_activity(f"within other, {values}", 0.02, 0.1, 0.02, rho, values == "constant")
    for density in (0.1, 0.5):
        yield by_activity("independent, constant", density, density, density**2, constant=True)
        yield by_activity("only values depend", density, density, density**2, 0.9)
    for density in (0.02, 0.1):
        yield by_activity("exclusive, constant", density, density, 0.0, constant=True)
        yield by_activity("exclusive, continuous", density, density, 0.0)
        yield by_activity("continuous duplicate", density, density, density, 1.0)


def thresholded_gaussians(name: str, rho: float, density: float, other: float) -> Case:
    """f = relu(z - t), z Gaussian with correlation rho, t set by the density: an atom at zero and a continuous part."""
    threshold = -ndtri(np.array([density, other]))

    def draw(rows: int, generator: np.random.Generator) -> np.ndarray:
        return np.maximum(_correlated(rows, rho, generator) - threshold, 0)

    return Case(name, min(density, other), rho, thresholded_information(rho, density, other), draw)


def gaussians(rho: float) -> Case:
    """Two Gaussians, never zero and half of them negative: not what features look like, but what textbooks have."""
    return Case("Gaussian", 1.0, rho, gaussian_information(rho), lambda rows, g: _correlated(rows, rho, g))


def by_activity(name: str, a: float, b: float, both: float, rho: float = 0.0, constant: bool = False) -> Case:
    """Features that are active together on a share `both` of the rows, alone on a - both and b - both.

    Values are 1 or, unless `constant`, exp(z); where both are active their z have correlation rho, and know nothing of
    activity otherwise. So I = I(activity) + both * I(values).
    """
    table = np.array([[1 - a - b + both, b - both], [a - both, both]])

    def draw(rows: int, generator: np.random.Generator) -> np.ndarray:
        cell = np.searchsorted(table.cumsum()[:-1], generator.random(rows), side="right")
        active = np.stack([cell >= 2, cell % 2 == 1], axis=1)
        return active * (1.0 if constant else np.exp(_correlated(rows, rho, generator)))

    values = both * gaussian_information(rho)
    at_least = table_information(table) if math.isinf(values) else math.nan
    return Case(name, min(a, b), rho, table_information(table) + values, draw, at_least)


def gaussian_information(rho: float) -> float:
    """-0.5 ln(1 - rho^2), infinite at 1."""
    return -0.5 * math.log1p(-(rho**2)) if rho < 1 else math.inf


def table_information(table: np.ndarray) -> float:
    """Mutual information of a joint table of probabilities."""
    nats = xlogy(table, table).sum() - sum(xlogy(m, m).sum() for m in (table.sum(0), table.sum(1)))
    return max(float(nats), 0.0)  # rounding can leave -1e-16


def thresholded_information(rho: float, a: float, b: float) -> float:
    """Mutual information of relu(z - t) for Gaussians with correlation rho, active on shares a and b of the rows.

    The sum over the atom where neither is active, two edges where one is, and the plane where both are. Over y the
    integrals are known (moments of a Gaussian above a threshold), so what is left is one over x.
    """
    if rho == 0:
        return 0.0
    sd = math.sqrt(1 - rho**2)  # of z_y given z_x
    gaussian = gaussian_information(rho)

    def edge(t: float, t_other: float, silent: float) -> float:
        def integrand(x: float) -> float:
            given_x = ndtr((t_other - rho * x) / sd)  # the other is silent
            return _density(x) * xlogy(given_x, given_x / silent)

        return _integral(integrand, t)

    def plane(x: float) -> float:
        # ln p(x,y)/p(x)p(y) = -ln(1-rho^2)/2 + x^2/2 + y^2/2 - (y - rho x)^2 / 2 sd^2 - x^2/2, y = rho x + sd e
        low = (t_b - rho * x) / sd
        mass, first = ndtr(-low), _density(low)  # E[1; e > low], E[e; e > low]
        second = mass + low * first  # E[e^2; e > low]
        y_squared = (rho * x) ** 2 * mass + 2 * rho * x * sd * first + sd**2 * second
        return _density(x) * (gaussian * mass + (y_squared - second) / 2)

    t_a, t_b = -ndtri(a), -ndtri(b)
    both = _integral(lambda x: _density(x) * ndtr((rho * x - t_b) / sd), t_a)
    neither = 1 - a - b + both
    atom = xlogy(neither, neither / ((1 - a) * (1 - b)))
    return float(atom + edge(t_a, t_b, 1 - b) + edge(t_b, t_a, 1 - a) + _integral(plane, t_a))


def mixed_ksg(x: np.ndarray, y: np.ndarray, k: int = 5) -> float:
    """Mutual information by nearest neighbours, for variables that are discrete, continuous or both.

    Gao, Kannan, Oh & Viswanath 2017, "Estimating mutual information for discrete-continuous mixtures", as in the
    authors' own program: psi(k_i) + ln N - psi(n_x) - psi(n_y) on average, each point counted among its neighbours and
    neighbours nearer than the k-th one only, or all those at the same place where there are more than k.
    """
    points, place, copies = np.unique(np.stack([x, y], axis=1), axis=0, return_inverse=True, return_counts=True)
    light = copies <= k
    # A tree of thousands of equal points is slow; k + 1 of each are all that the k-th distance can depend on.
    tree = cKDTree(np.repeat(points, np.minimum(copies, k + 1), axis=0))
    distance = np.zeros(len(points))
    distance[light] = tree.query(points[light], [k + 1], p=np.inf)[0][:, 0]
    distance = distance[place.ravel()]
    k_i = np.where(distance > 0, k, copies[place.ravel()])
    each = digamma(k_i) - digamma(_within(x, distance)) - digamma(_within(y, distance))
    return float(each.mean()) + math.log(len(x))


def sklearn_ksg(x: np.ndarray, y: np.ndarray) -> float:
    """scikit-learn's estimator for two continuous variables: KSG with k = 3, after noise that breaks ties."""
    return float(mutual_info_regression(x[:, None], y, random_state=0)[0])


def _within(x: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """How many points lie strictly within its distance of each point, or at it if that is zero; itself included."""
    ordered = np.sort(x)
    # Differences x_j - x_i are what is compared, but sorted search compares x_j with x_i + d: hence the tiny margin,
    # which is the authors' too.
    distance = np.where(distance > 0, distance - 1e-15, 1e-15)
    return np.searchsorted(ordered, x + distance, side="right") - np.searchsorted(ordered, x - distance, side="left")


def _correlated(rows: int, rho: float, generator: np.random.Generator) -> np.ndarray:
    z = generator.standard_normal((rows, 2))
    z[:, 1] = rho * z[:, 0] + math.sqrt(1 - rho**2) * z[:, 1]
    return z


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _integral(of: Callable[[float], float], start: float) -> float:
    return float(quad(of, max(start, -TAIL), TAIL, epsabs=1e-12, epsrel=1e-10, limit=200)[0])
