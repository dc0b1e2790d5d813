"""Heat maps of how much features share, from the strongest pairs of an audit."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sleave.auditing.results import StrongPairs

FEATURES = 96
STRONGEST = 12  # cells that are told in words
MEASURES: Mapping[str, tuple[str, str]] = MappingProxyType({"pearson": ("|r|", ".2f"), "information": ("I", ".4f")})
Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HeatMap:
    """How much each two of some features share.

    Attributes:
        name: `pearson` or `information`.
        features: the rows and columns, in order.
        values: (features, features), symmetric, with zeros on the diagonal.
        least: a pair below it may be missing, that is, 0.
        most: the value of the darkest colour.
    """

    name: str
    features: tuple[int, ...]
    values: Matrix
    least: float
    most: float = 1.0


class Strong:
    """The strongest pairs of an autoencoder, to be looked up."""

    def __init__(self, pairs: StrongPairs) -> None:
        self.pairs = pairs
        self.i, self.j = np.array(pairs.i, dtype=np.int64), np.array(pairs.j, dtype=np.int64)
        self.score = {name: np.array(getattr(pairs, name), dtype=np.float64) for name in MEASURES}
        self.least = {name: float(getattr(pairs, f"least_{name}")) for name in MEASURES}

    @cached_property
    def features(self) -> tuple[int, ...]:
        """Those of the strongest pairs by each measure in turn, until there are 96; like ones next to each other."""
        orders = [np.argsort(-score, kind="stable")[:FEATURES] for score in self.score.values()]
        found: dict[int, None] = {}
        for place in np.stack(orders, axis=1).flatten():
            for feature in (int(self.i[place]), int(self.j[place])):
                if len(found) < FEATURES:
                    found[feature] = None
        chosen = sorted(found)
        return tuple(chosen[n] for n in clustered(self.map("pearson", chosen).values))

    def map(self, name: str, features: Sequence[int]) -> HeatMap:
        """What some features share, which need not be among the strongest."""
        place = np.full(1 + max([*self.i, *self.j, *features], default=0), -1)
        place[list(features)] = np.arange(len(features))
        inside = (place[self.i] >= 0) & (place[self.j] >= 0)
        row, column = place[self.i[inside]], place[self.j[inside]]
        values = np.zeros((len(features), len(features)))
        values[row, column] = values[column, row] = np.abs(self.score[name][inside])
        return HeatMap(name, tuple(features), values, self.least[name])


def clustered(similarity: Matrix) -> list[int]:
    """An order in which like things are near each other: that of the leaves of clustering by average linkage.

    Of two clusters that are joined, the second is turned so that the ends that meet are the more alike.
    """
    size = len(similarity)
    members = {n: [n] for n in range(size)}
    between = similarity.astype(np.float64).copy()
    np.fill_diagonal(between, -np.inf)
    for _ in range(size - 1):
        a, b = sorted(divmod(int(between.argmax()), size))
        weight_a, weight_b = len(members[a]), len(members[b])
        merged = (weight_a * between[a] + weight_b * between[b]) / (weight_a + weight_b)
        left, right = members[a], members.pop(b)
        ends = [(left, right), (left, right[::-1]), (left[::-1], right), (left[::-1], right[::-1])]
        first, second = max(ends, key=lambda pair: similarity[pair[0][-1], pair[1][0]])
        members[a] = first + second
        between[a], between[:, a] = merged, merged
        between[b], between[:, b] = -np.inf, -np.inf
        between[a, a] = -np.inf
    return next(iter(members.values()), [])


def entangled(pairs: StrongPairs) -> Iterator[HeatMap]:
    """A map by each measure of the most entangled features."""
    strong = Strong(pairs)
    if strong.features:
        yield from on_one_scale([strong.map(name, strong.features) for name in MEASURES])


def on_one_scale(maps: Sequence[HeatMap]) -> list[HeatMap]:
    """The same maps, all of one measure having one scale: up to the largest information, and up to |r| = 1."""
    most = max((float(m.values.max(initial=0)) for m in maps if m.name == "information"), default=0.0) or 1.0
    return [HeatMap(m.name, m.features, m.values, m.least, most if m.name == "information" else 1.0) for m in maps]


def heat_figure(name: str, title: str, run: int, heat: HeatMap) -> tuple[str, dict[str, Any]]:
    """A figure, as HTML and as data for the script that draws it.

    Args:
        name: an identifier.
        title: of what it is.
        run: which run it is of.
        heat: the map.
    """
    symbol, style = MEASURES[heat.name]
    size = len(heat.features)
    label = f"{symbol} between {size} features: {title}. The strongest pairs are in the table below it."
    figure = (
        f'<figure data-of="{run}"><figcaption>{escape(title)} <small>{symbol}, 0 to {heat.most:{style}}</small>'
        f'</figcaption><canvas id="{name}" width="{size}" height="{size}" role="img" aria-label="{escape(label)}">'
        f'</canvas><p class="at"><span class="ramp"></span> below {heat.least:{style}} left blank <output></output></p>'
        f"{_strongest(heat)}</figure>"
    )
    upper = np.triu_indices(size, 1)
    cells = np.clip(np.rint(heat.values[upper] / heat.most * 255), 0, 255).astype(np.uint8)
    coded = base64.b64encode(cells.tobytes()).decode()
    return figure, {"id": name, "symbol": symbol, "features": heat.features, "most": heat.most, "cells": coded}


def _strongest(heat: HeatMap) -> str:
    """The strongest cells in words."""
    symbol, style = MEASURES[heat.name]
    row, column = np.triu_indices(len(heat.features), 1)
    order = np.argsort(-heat.values[row, column], kind="stable")[:STRONGEST]
    rows = "".join(
        f'<tr><th scope="row">{heat.features[row[n]]}, {heat.features[column[n]]}</th>'
        f"<td>{heat.values[row[n], column[n]]:{style}}</td></tr>"
        for n in order
    )
    return (
        f'<details class="data"><summary>Strongest pairs</summary><table><thead><tr><th scope="col">features</th>'
        f'<th scope="col">{symbol}</th></tr></thead><tbody>{rows}</tbody></table></details>'
    )
