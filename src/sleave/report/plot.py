"""Lines and points as inline SVG, in the colours of the page, with their numbers in a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from sleave.report.html import wide

WIDTH, HEIGHT = 400, 260
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 44
COLOURS, DASHES = 10, 7  # that page.css has; together 70 that can be told apart
TOLD = 10  # points of a line in the table
Point = tuple[float, float]
Look = Literal["full", "hollow", "faint"]


@dataclass(frozen=True)
class Axis:
    """An axis: what it shows, and whether its scale is logarithmic."""

    title: str
    log: bool = False


@dataclass(frozen=True)
class Line:
    """Points of one run.

    Attributes:
        run: which run, from 0; None for what belongs to several.
        name: for whoever reads the table or hovers over a point.
        points: in order.
        joined: whether a line goes through them.
        marked: whether each has a mark, and its numbers on hovering.
        look: of the marks.
    """

    run: int | None
    name: str
    points: Sequence[Point]
    joined: bool = True
    marked: bool = False
    look: Look = "full"


def plot(title: str, x: Axis, y: Axis, lines: Sequence[Line], limits: Mapping[int | None, float] | None = None) -> str:
    """A figure of some lines, or nothing if there are no points that can be drawn.

    Args:
        title: the caption.
        x, y: the axes. On a logarithmic one, what is not positive is drawn at its lower end.
        lines: what is drawn.
        limits: values of x at which there is an upright line, by run; None for what holds for all.
    """
    points = [p for line in lines for p in line.points]
    if not points:
        return ""
    limits = limits or {}
    across = _Scale.over([*(p[0] for p in points), *limits.values()], x.log, LEFT, WIDTH - RIGHT)
    up = _Scale.over([p[1] for p in points], y.log, HEIGHT - BOTTOM, TOP)
    runs = len({line.run for line in lines if line.run is not None})
    says = f"{y.title} against {x.title}, {runs} run{'s' * (runs != 1)}. The numbers are in the table below it."
    body = [*_axes(x, y, across, up)]
    body += [_limit(run, across.place(limit)) for run, limit in limits.items()]
    body += [part for line in lines for part in _drawn(line, across, up)]
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><desc>{escape(says)}</desc>{"".join(body)}</svg>{_numbers(x, y, lines)}</figure>'
    )


def style(run: int | None) -> str:
    """The classes that give a run its colour and its dashes."""
    return "several" if run is None else f"c{run % COLOURS} d{run % DASHES}"


def mark(run: int, x: float, y: float, title: str = "", look: Look = "full") -> str:
    """A run's mark at a point: the shape tells runs apart, as the colour does."""
    shape = (
        "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
        "M-4 -4h8v8h-8z",
        "M0 -5l5 9h-10z",
        "M0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
        "M0 5l5 -9h-10z",
        "M-1.5 -5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
    )[run % 6]
    hover = f"<title>{escape(title)}</title>" if title else ""
    kind = f"mark {look} c{run % COLOURS}"
    return f'<path class="{kind}" transform="translate({x:.1f} {y:.1f})" d="{shape}">{hover}</path>'


def key(run: int) -> str:
    """A run's line and mark, for legends."""
    return (
        f'<svg class="key" viewBox="0 0 34 14" aria-hidden="true"><path class="line {style(run)}" d="M1 7H33"/>'
        f"{mark(run, 17, 7)}</svg>"
    )


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    log: bool
    start: float
    end: float

    @staticmethod
    def over(values: Sequence[float], log: bool, start: float, end: float) -> _Scale:
        """A scale with some room round the values; of a logarithmic one, those that are positive."""
        values = [v for v in values if v > 0] if log else list(values)
        low, high = (min(values), max(values)) if values else (1.0, 10.0)
        if log:
            low, high = math.log10(low), math.log10(high)
        room = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
        below = low if low == 0 and not log else low - room  # what is counted begins at 0
        return _Scale(below, high + room, log, start, end)

    def place(self, value: float) -> float:
        if self.log:
            value = math.log10(value) if value > 0 else self.low
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        if not self.log:
            return _even(self.low, self.high)
        powers = [10.0**n for n in range(math.ceil(self.low), math.floor(self.high) + 1)]
        if len(powers) >= 3:
            return powers[:: 1 + len(powers) // 7]
        first = math.floor(self.low)
        steps = [m * 10.0**n for n in range(first, math.floor(self.high) + 1) for m in (1, 2, 5)]
        inside = [t for t in steps if self.low <= math.log10(t) <= self.high]
        return inside if len(inside) >= 2 else _even(10**self.low, 10**self.high)


def _even(low: float, high: float) -> list[float]:
    """About five round numbers."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def number(value: float) -> str:
    """A number for a reader: four significant digits at most."""
    size = abs(value)
    if size >= 1e5 or 0 < size < 1e-4:
        return f"{value:.3g}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


def _axes(x: Axis, y: Axis, across: _Scale, up: _Scale) -> Iterator[str]:
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for tick in across.ticks():
        place = across.place(tick)
        yield f'<path class="grid" d="M{place:.1f} {TOP}V{floor}"/>'
        yield f'<text x="{place:.1f}" y="{floor + 16}">{number(tick)}</text>'
    for tick in up.ticks():
        place = up.place(tick)
        yield f'<path class="grid" d="M{LEFT} {place:.1f}H{right}"/>'
        yield f'<text class="side" x="{LEFT - 6}" y="{place + 4:.1f}">{number(tick)}</text>'
    yield f'<text class="axis" x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 6}">{escape(x.title)}</text>'


def _limit(run: int | None, place: float) -> str:
    own = "" if run is None else f' data-of="{run}"'
    return f'<path class="limit {style(run)}"{own} d="M{place:.1f} {TOP}V{HEIGHT - BOTTOM}"/>'


def _drawn(line: Line, across: _Scale, up: _Scale) -> Iterator[str]:
    places = [(across.place(px), up.place(py)) for px, py in line.points]
    of = "" if line.run is None else f' data-of="{line.run}"'
    yield f"<g{of}>"
    if line.joined and len(places) > 1:
        yield f'<path class="line {style(line.run)}" d="M{"L".join(f"{px:.1f} {py:.1f}" for px, py in places)}"/>'
    if line.marked and line.run is not None:
        for (px, py), (vx, vy) in zip(places, line.points, strict=True):
            yield mark(line.run, px, py, f"{line.name}: {number(vx)}, {number(vy)}", line.look)
    yield "</g>"


def _numbers(x: Axis, y: Axis, lines: Sequence[Line]) -> str:
    rows = []
    for line in lines:
        if line.run is None:
            continue
        every = -(-len(line.points) // TOLD) if line.points else 1
        for px, py in [*line.points[:-1:every], *line.points[-1:]]:
            cells = f"<td>{number(px)}</td><td>{number(py)}</td>"
            rows.append(f'<tr data-of="{line.run}"><th scope="row">{escape(line.name)}</th>{cells}</tr>')
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("run", x.title, y.title))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<details class="data"><summary>Numbers</summary>{wide("Numbers", table)}</details>'
