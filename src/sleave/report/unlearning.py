"""Unlearning on the page of several runs: what each topic's forgetting costs, and what controls score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from sleave.report.html import none, wide
from sleave.report.plot import Axis, Line, Point, number, plot
from sleave.report.reading import Run, as_number, find
from sleave.report.tables import head

CONTROLS = {
    "random features": "other features of like firing rate, drawn at random: the highest of several draws",
    "random dictionary": "random directions that fire as often",
    "zero ablation": "the same features set to zero",
    "probe direction": "the one direction that tells the topic best at the autoencoder's layer",
}
COLUMNS = (
    ("run", "the run"),
    ("status", "ok, or why there is no score"),
    ("score", "1 - accuracy on the topic's passages, within the limits, with its interval"),
    ("CE", "rise of the loss on the other passages at that score, in nats a token"),
    ("no CE limit", "the score that counts as published: whatever it costs"),
    ("its CE", "what it costs"),
    *CONTROLS.items(),
    ("read anew", "accuracy of a probe fitted to the changed model: what is left of the topic to read"),
    ("clean", "the same without any change"),
    ("limits broken", "on the test passages, although kept on those it was chosen by"),
)
FORMS = ("headline", "published_form")
TEXT = ("run", "status", "limits broken")


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
            for name in CONTROLS:
                if (score := control(found, name)) is not None:
                    cost = control(found, name, "test.ce_rise") or 0.0
                    lines.append(Line(n, f"{runs[n].name}, {name}", [(cost, score)], joined=False, marked=True))
    limits = [limit for run in runs if (limit := run.number("unlearning.settings.unlearning.ce_rise")) is not None]
    limit = limits[0] if limits else None
    return plot(topic, Axis("rise of retain CE, nats"), Axis("score: forgotten"), lines, limit=limit)


def _points(curve: Any) -> Iterator[Point]:
    for pair in curve if isinstance(curve, list) else []:
        if isinstance(pair, list | tuple) and len(pair) == 2:
            x, y = as_number(pair[0]), as_number(pair[1])
            if x is not None and y is not None:
                yield x, y


def control(found: Mapping[str, Any], name: str, figure: str = "score") -> float | None:
    """A figure of a control, of the draw with the highest score where there are several."""
    controls = found.get("controls")
    draws = [v for k, v in controls.items() if k.startswith(name)] if isinstance(controls, Mapping) else []
    scored = [(score, draw) for draw in draws if (score := as_number(find(draw, "score"))) is not None]
    return as_number(find(max(scored, key=lambda s: s[0])[1], figure)) if scored else None


def _table(runs: Sequence[Run]) -> str:
    heads = "".join(head(name, says, name in TEXT) for name, says in COLUMNS)
    rows = "".join(_row(runs[n].name, n, found) for n, found in _found(runs))
    table = (
        '<table><caption class="unseen">Unlearning</caption><thead><tr><th scope="col">topic</th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )
    return wide("Unlearning", table)


def _row(run: str, place: int, found: Mapping[str, Any]) -> str:
    low_high = find(found, "headline.interval")
    interval = [as_number(v) for v in low_high] if isinstance(low_high, list | tuple) else []
    more = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if len(interval) == 2 and None not in interval else ""
    figures = [as_number(find(found, f"{part}.{of}")) for part in FORMS for of in ("score", "test.ce_rise")]
    figures += [control(found, name) for name in CONTROLS]
    figures += [as_number(found.get(name)) for name in ("refitted", "refitted_clean")]
    broken = find(found, "headline.violations")
    listed = ", ".join(map(str, broken)) if isinstance(broken, list | tuple) else ""
    return (
        f'<tr data-of="{place}"><th scope="row">{escape(str(found["topic"]))}</th><td class="text">{escape(run)}</td>'
        f'<td class="text">{escape(str(found.get("status", "")))}</td>'
        f"{_cell(figures[0], more)}{''.join(map(_cell, figures[1:]))}"
        f'<td class="text">{escape(listed)}</td></tr>'
    )


def _cell(value: float | None, more: str = "") -> str:
    return '<td data-value="-1">-</td>' if value is None else f'<td data-value="{value!r}">{number(value)}{more}</td>'
