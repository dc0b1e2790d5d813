"""Unlearning on the page of several runs: what each topic's forgetting costs, and what controls score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from sleave.report.html import none, wide
from sleave.report.plot import Axis, Line, Point, number, plot
from sleave.report.reading import Run, as_number, find
from sleave.report.tables import head

MOST_CE = 0.1  # nats; the headline is the best score that costs at most this
CONTROLS = {
    "random_features": "random features",
    "random_dictionary": "random dictionary",
    "zero_ablation": "zero-ablation",
    "probe_direction": "probe's direction",
    "refitted_probe": "refitted probe",
}


def unlearning(runs: Sequence[Run], legend: str) -> str:
    """A plot for each topic, with the legend of the runs above, and a table."""
    topics = list(dict.fromkeys(str(found["topic"]) for _, found in _found(runs)))
    if not topics:
        missing = [str(why) for run in runs if (why := find(run.results, "unlearning.why"))]
        return none(" ".join(dict.fromkeys(missing)) or "Not measured: sleave evaluate RUN --suite unlearning")
    plots = "".join(_plot(runs, topic) for topic in topics)
    return f'{legend}<div class="figures">{plots}</div>{_table(runs)}'


def _found(runs: Sequence[Run]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for n, run in enumerate(runs):
        topics = find(run.results, "unlearning.topics")
        for found in topics if isinstance(topics, list) else []:
            if isinstance(found, Mapping) and "topic" in found:
                yield n, found


def _plot(runs: Sequence[Run], topic: str) -> str:
    lines = []
    for n, found in _found(runs):
        if str(found["topic"]) == topic:
            lines.append(Line(n, runs[n].name, sorted(_points(found.get("curve")))))
            for name, title in CONTROLS.items():
                if (score := control(found, name)) is not None and name != "refitted_probe":
                    label = f"{runs[n].name}, {title}"
                    lines.append(Line(n, label, [(MOST_CE, score)], joined=False, marked=True))
    return plot(topic, Axis("rise of retain CE, nats"), Axis("score: forgotten"), lines, limit=MOST_CE)


def _points(curve: Any) -> Iterator[Point]:
    for pair in curve if isinstance(curve, list) else []:
        if isinstance(pair, list | tuple) and len(pair) == 2:
            x, y = as_number(pair[0]), as_number(pair[1])
            if x is not None and y is not None:
                yield x, y


def control(found: Mapping[str, Any], name: str) -> float | None:
    """What a control scores: a number, or the headline of its own result."""
    value = find(found, f"controls.{name}")
    return as_number(find(value, "headline") if isinstance(value, Mapping) else value)


def _table(runs: Sequence[Run]) -> str:
    heads = "".join(
        head(name, says, name in ("run", "status"))
        for name, says in (
            ("run", "the run"),
            ("status", "ok, or why there is no score"),
            (
                "score",
                f"1 - accuracy on what is to be forgotten, at most {MOST_CE} nats of retain CE, with its interval",
            ),
            ("as published", "the same without a limit on what it costs"),
            *((title, "the same of a control") for title in CONTROLS.values()),
        )
    )
    rows = "".join(_row(runs[n].name, n, found) for n, found in _found(runs))
    table = (
        '<table><caption class="unseen">Unlearning</caption><thead><tr><th scope="col">topic</th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )
    return wide("Unlearning", table)


def _row(run: str, place: int, found: Mapping[str, Any]) -> str:
    interval = [as_number(v) for v in found.get("interval") or ()]
    low_high = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if len(interval) == 2 and None not in interval else ""
    figures = [as_number(found.get(name)) for name in ("headline", "published")]
    figures += [control(found, name) for name in CONTROLS]
    cells = [_cell(figures[0], low_high), *map(_cell, figures[1:])]
    return (
        f'<tr data-of="{place}"><th scope="row">{escape(str(found["topic"]))}</th><td class="text">{escape(run)}</td>'
        f'<td class="text">{escape(str(found.get("status", "")))}</td>'
        f"{''.join(cells)}</tr>"
    )


def _cell(value: float | None, more: str = "") -> str:
    return '<td data-value="-1">-</td>' if value is None else f'<td data-value="{value!r}">{number(value)}{more}</td>'
