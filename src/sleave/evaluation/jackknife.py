"""Intervals from figures that were computed anew without each of some groups of documents.

With G groups and theta_g the figure without group g, the standard error is

    se^2 = (G - 1) / G  sum_g (theta_g - mean theta)^2,

and theta +- t(G - 1) se is the interval. Rows of one document go together, since they are alike; and no row is ever
there twice. A bootstrap repeats rows, and two features that fire together on one row that was drawn three times look
dependent: its correlations and informations are not those of the data (docs/evaluation.md has numbers).

Reference: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", Eq. (11.5) and section 12.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

CONFIDENCE = 0.95


def interval(value: float, without: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of a figure, given what it is without each group.

    >>> low, high = interval(2.0, [1.5, 2.0, 2.5])  # the mean of 1, 2, 3, and those without each
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    half = quantile_of_t(len(without) - 1) * standard_error(without)
    return value - half, value + half


def standard_error(without: Sequence[float]) -> float:
    """The jackknife's standard error of a figure, given what it is without each group."""
    mean = statistics.fmean(without)
    return math.sqrt((len(without) - 1) / len(without) * math.fsum((v - mean) ** 2 for v in without))


def quantile_of_t(degrees: int, confidence: float = CONFIDENCE) -> float:
    """t such that Student's |T| is at most t with that probability."""
    low, high = 0.0, 1e6
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return high


def _within(t: float, degrees: int) -> float:
    """P(|T| <= t), a finite sum for whole degrees of freedom.

    Reference: Abramowitz & Stegun 1964, Eq. (26.7.3) and (26.7.4).
    """
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = cosine if odd else 1.0, 0.0
    for n in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * n / (n + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
