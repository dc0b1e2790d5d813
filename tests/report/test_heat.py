"""Heat maps: what is in them, and in which order."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import cophenet, fcluster, linkage
from scipy.spatial.distance import squareform

from sleave.auditing.results import StrongPairs
from sleave.report.heat import FEATURES, Strong, clustered, heat_figure, on_one_scale


def similarities(seed, size):
    g = np.random.default_rng(seed)
    upper = np.triu(g.random((size, size)), 1)
    return upper + upper.T


@given(st.integers(0, 10_000), st.integers(2, 24))
def test_the_order_is_one_of_average_linkage(seed, size):
    """Each cluster that scipy finds, at every height, is a run of neighbours."""
    similarity = similarities(seed, size)
    order = clustered(similarity)
    assert sorted(order) == list(range(size))
    tree = linkage(squareform(1 - similarity, checks=False), "average")
    for height in np.unique(cophenet(tree)):
        label = fcluster(tree, height + 1e-12, "distance")[order]
        assert len(np.unique(label)) == 1 + np.count_nonzero(np.diff(label))


def test_like_ends_meet():
    """0-1 and 2-3 are clusters; 1 and 3 are the most alike across them, so they are neighbours."""
    similarity = np.array([[0, 0.9, 0, 0], [0.9, 0, 0, 0.5], [0, 0, 0, 0.8], [0, 0.5, 0.8, 0]])
    assert clustered(similarity) in ([0, 1, 3, 2], [2, 3, 1, 0])


def test_nothing_and_one():
    assert clustered(np.zeros((0, 0))) == []
    assert clustered(np.zeros((1, 1))) == [0]


def strong(i, j, pearson, information):
    return Strong(StrongPairs(tuple(i), tuple(j), tuple(pearson), tuple(information), 0.1, 0.01))


def test_a_map_of_any_features():
    found = strong([1, 1, 4], [4, 7, 9], [0.9, 0.3, 0.5], [0.02, 0.5, 0.1])
    heat = found.map("information", (7, 1, 4))
    assert heat.values.tolist() == [[0, 0.5, 0], [0.5, 0, 0.02], [0, 0.02, 0]]
    assert (heat.features, heat.least) == ((7, 1, 4), 0.01)
    assert found.map("pearson", (20, 21)).values.tolist() == [[0, 0], [0, 0]]
    assert set(found.features) == {1, 4, 7, 9}


def test_the_strongest_by_both_measures_are_chosen():
    pairs = range(200)
    found = strong([2 * n for n in pairs], [2 * n + 1 for n in pairs], [1 - n / 200 for n in pairs], list(pairs))
    chosen = set(found.features)
    assert len(chosen) == FEATURES
    assert {0, 1, 398, 399} <= chosen
    assert not {200, 201} & chosen


def test_one_scale_for_the_maps_of_a_measure():
    first = strong([0], [1], [0.4], [0.2])
    second = strong([0], [1], [0.3], [0.7])
    maps = on_one_scale([s.map(name, (0, 1)) for s in (first, second) for name in ("pearson", "information")])
    assert [m.most for m in maps] == [1, 0.7, 1, 0.7]


def test_cells_are_the_upper_triangle_row_by_row():
    heat = strong([0, 0, 1], [1, 2, 2], [0.2, 0.4, 1.0], [0, 0, 0]).map("pearson", (0, 1, 2))
    html, data = heat_figure("map", "<title>", 3, heat)
    assert list(base64.b64decode(data["cells"])) == [51, 102, 255]
    assert json.loads(json.dumps(data))["features"] == [0, 1, 2]
    assert "&lt;title&gt;" in html
    assert 'data-of="3"' in html
    assert html.index("1, 2") < html.index("0, 2") < html.index("0, 1")  # strongest first


def test_without_strong_pairs_there_are_no_features():
    assert strong([], [], [], []).features == ()
    assert pytest.approx(0) == strong([], [], [], []).map("pearson", (3,)).values
