"""Unlearning on the page of several runs: what each topic's forgetting costs, and what controls score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from sleave.report.html import none, wide
from sleave.report.plot import Axis, Line, Point, number, plot
from sleave.report.reading import Run, as_number, find
from sleave.report.tables import head

CONTROLS = {
    "random features": "other features of like firing rate, drawn at random: the highest of several draws",
    "random dictionary": "random directions that fire as often",
    "zero ablation": "the same features set to zero",
    "topic direction": (
        "the one direction that tells the topic best at the autoencoder's layer, by a linear discriminant"
    ),
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
NOTE = (
    "Full marks: the headline, on the test passages, with its 95% interval. Hollow marks: controls, on the test "
    "passages. Faint marks: configurations on the passages they were chosen by, within the limit on retain accuracy. "
    "Dashes: the limit on the rise of the loss, of each run if they differ."
)
SETTINGS = "unlearning.settings.unlearning"
FORMS = ("headline", "published_form")
TEXT = ("run", "status", "limits broken")


class _Topic(NamedTuple):
    """What a run found on a topic, and its limit on the rise of the loss."""

    run: int
    name: str
    found: Mapping[str, Any]
    limit: float | None


def unlearning(runs: Sequence[Run], legend: str) -> str:
    """A plot for each topic, with the legend of the runs above, and a table."""
    topics = list(_topics(runs))
    if not topics:
        missing = [str(why) for run in runs if (why := find(run.results, "unlearning.why"))]
        return none(" ".join(dict.fromkeys(missing)) or "Not measured: sleave evaluate RUN --suite unlearning")
    names = dict.fromkeys(topic.name for topic in topics)
    plots = "".join(_plot(runs, name, [t for t in topics if t.name == name]) for name in names)
    return f'<p>{NOTE}</p>{legend}<div class="figures">{plots}</div>{_table(runs, topics)}'


def _topics(runs: Sequence[Run]) -> Iterator[_Topic]:
    """Topics of passages, then those of multiple-choice questions."""
    for path, asked in (("", ""), (".multiple_choice", " (multiple choice)")):
        for n, run in enumerate(runs):
            topics = find(run.results, f"unlearning{path}.topics")
            for found in topics if isinstance(topics, list) else []:
                if isinstance(found, Mapping) and "topic" in found:
                    yield _Topic(n, f"{found['topic']}{asked}", found, run.number(f"{SETTINGS}{path}.ce_rise"))


def _plot(runs: Sequence[Run], name: str, topics: Sequence[_Topic]) -> str:
    lines = [line for topic in topics for line in _lines(topic, runs[topic.run].name)]
    limits: dict[int | None, float] = {topic.run: topic.limit for topic in topics if topic.limit is not None}
    if len(set(limits.values())) == 1:
        limits = {None: next(iter(limits.values()))}
    return plot(name, Axis("rise of retain CE, nats"), Axis("score: forgotten"), lines, limits)


def _lines(topic: _Topic, run: str) -> Iterator[Line]:
    """The marks of a run on a topic; what has no cost or no score is left out."""
    found = topic.found
    curve = sorted(_points(found.get("curve")))
    yield Line(topic.run, f"{run}, where chosen", curve, joined=False, marked=True, look="faint")
    for name in CONTROLS:
        point = _points([(control(found, name, "test.ce_rise"), control(found, name))])
        yield Line(topic.run, f"{run}, {name}", list(point), joined=False, marked=True, look="hollow")
    best = _points([(find(found, "headline.test.ce_rise"), find(found, "headline.score"))])
    yield Line(topic.run, f"{run}, headline{_interval(found)}", list(best), joined=False, marked=True)


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


def _table(runs: Sequence[Run], topics: Sequence[_Topic]) -> str:
    heads = "".join(head(name, says, name in TEXT) for name, says in COLUMNS)
    rows = "".join(_row(runs[topic.run].name, topic) for topic in topics)
    table = (
        '<table><caption class="unseen">Unlearning</caption><thead><tr><th scope="col">topic</th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )
    return wide("Unlearning", table)


def _interval(found: Mapping[str, Any]) -> str:
    """The headline's, such as ` [0.50, 0.70]`; empty if it has none."""
    low_high = find(found, "headline.interval")
    ends = [as_number(v) for v in low_high] if isinstance(low_high, list | tuple) else []
    return f" [{ends[0]:.2f}, {ends[1]:.2f}]" if len(ends) == 2 and None not in ends else ""


def _row(run: str, topic: _Topic) -> str:
    found = topic.found
    figures = [as_number(find(found, f"{part}.{of}")) for part in FORMS for of in ("score", "test.ce_rise")]
    figures += [control(found, name) for name in CONTROLS]
    figures += [as_number(found.get(name)) for name in ("refitted", "refitted_clean")]
    broken = find(found, "headline.violations")
    listed = ", ".join(map(str, broken)) if isinstance(broken, list | tuple) else ""
    return (
        f'<tr data-of="{topic.run}"><th scope="row">{escape(topic.name)}</th><td class="text">{escape(run)}</td>'
        f'<td class="text">{escape(str(found.get("status", "")))}</td>'
        f"{_cell(figures[0], _interval(found))}{''.join(map(_cell, figures[1:]))}"
        f'<td class="text">{escape(listed)}</td></tr>'
    )


def _cell(value: float | None, more: str = "") -> str:
    return '<td data-value="-1">-</td>' if value is None else f'<td data-value="{value!r}">{number(value)}{more}</td>'
