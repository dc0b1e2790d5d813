"""Histograms as inline SVG, in the colours of the page."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from sleave.evaluation.histogram import Histogram

WIDTH, HEIGHT = 360, 150
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 10, 34


def histogram_svg(
    histogram: Histogram, title: str, axis: str, ticks: tuple[float, ...], tick: Callable[[float], str]
) -> str:
    """Bars, an axis with some ticks, and for each bar its count as a tooltip.

    Args:
        histogram: what is drawn.
        title: for whoever cannot see it.
        axis: what the values are.
        ticks: at which values there is a tick.
        tick: how a value is written.
    """
    low, high = histogram.edges[0], histogram.edges[-1]
    most = max(1, *histogram.counts)

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    floor = HEIGHT - BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for start, end, count in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        height = count / most * (floor - TOP)
        place = f'x="{x(start) + 0.5:.1f}" y="{floor - height:.1f}" width="{x(end) - x(start) - 1:.1f}"'
        label = f"{tick(start)} to {tick(end)}: {count:,}"
        parts.append(f'<rect {place} height="{height:.1f}"><title>{escape(label)}</title></rect>')
    parts.append(f'<line x1="{LEFT}" y1="{floor}" x2="{WIDTH - RIGHT}" y2="{floor}"/>')
    for value in ticks:
        parts.append(f'<text x="{x(value):.1f}" y="{floor + 14}">{escape(tick(value))}</text>')
    parts.append(f'<text class="axis" x="{WIDTH / 2}" y="{HEIGHT - 4}">{escape(axis)}</text></svg>')
    return "".join(parts)
