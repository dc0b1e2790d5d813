"""Plots: points at their places, ticks that are round, text that is text."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sleave.report.plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Line, number, plot, style

values = st.floats(-1e6, 1e6).map(lambda v: round(v, 3))


def marks(svg):
    return [tuple(map(float, found)) for found in re.findall(r"translate\(([-\d.]+) ([-\d.]+)\)", svg)]


@given(st.lists(st.tuples(values, values), min_size=1, max_size=20), st.booleans(), st.booleans())
def test_everything_is_inside_and_in_order(points, log_x, log_y):
    svg = plot("t", Axis("x", log_x), Axis("y", log_y), [Line(0, "run", points, marked=True)])
    found = marks(svg)
    assert len(found) == len(points)
    assert all(LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1 and TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1 for x, y in found)
    for (x, y), (a, b) in zip(points, found, strict=True):
        for (other_x, other_y), (c, d) in zip(points, found, strict=True):
            assert not (x < other_x and a > c + 0.11)
            assert not (y < other_y and b < d - 0.11)
    assert "nan" not in svg
    assert "inf" not in svg.replace("information", "")


def test_a_logarithmic_axis():
    """Of 1, 10 and 100, 10 is in the middle; 0 is at the lower end."""
    svg = plot("t", Axis("x"), Axis("y", log=True), [Line(0, "", [(0, 1), (1, 10), (2, 100), (3, 0)], marked=True)])
    low, middle, high, floor = (y for _, y in marks(svg))
    assert middle == pytest.approx((low + high) / 2, abs=0.1)
    assert floor == HEIGHT - BOTTOM


def test_ticks_are_round_numbers():
    svg = plot("t", Axis("x"), Axis("y"), [Line(0, "", [(0.0, 0.0), (47.0, 0.31)])])
    assert re.findall(r"<text[^>]*>([^<]*)<", svg)[:-1] == ["0", "10", "20", "30", "40", "0", "0.1", "0.2", "0.3"]


def test_what_is_drawn_can_be_read():
    points = [(float(n), float(n * n)) for n in range(100)]
    svg = plot("Title", Axis("steps"), Axis("loss"), [Line(2, "<b>", points), Line(None, "", [(1, 1), (2, 2)])])
    rows = re.findall(r'<tr data-of="2"><th scope="row">&lt;b&gt;</th><td>([^<]*)</td><td>([^<]*)</td>', svg)
    assert (rows[0], rows[-1], len(rows)) == (("0", "0"), ("99", "9,801"), 11)
    assert 'role="img" aria-label="Title"' in svg
    assert "loss against steps, 1 run." in svg
    assert "<b>" not in svg


def test_nothing_to_draw():
    assert plot("t", Axis("x"), Axis("y"), []) == plot("t", Axis("x"), Axis("y"), [Line(0, "", [])]) == ""


def test_seventy_runs_differ_in_colour_or_dashes():
    assert len({style(n) for n in range(70)}) == 70


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00321, "0.00321"),
        (1234567, "1.23e6"),
        (12345.6, "12,346"),
        (1e-7, "1e-7"),
        (-0.5, "-0.5"),
        (1e-12, "1e-12"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text
    assert float(text.replace(",", "")) == pytest.approx(value, rel=5e-3)
    assert math.isfinite(value)
