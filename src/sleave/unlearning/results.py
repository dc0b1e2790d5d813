"""What comes of unlearning: plain values, all of which JSON has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from sleave.behaviour.results import figures_and_intervals

Status = Literal["ok", "infeasible", "no_candidates", "too_few_known"]

WHY: Mapping[str, str] = {
    "ok": "",
    "infeasible": "No configuration keeps within the limits on what is retained.",
    "no_candidates": "No feature fires on the topic and seldom enough on what is retained.",
    "too_few_known": "The clean model knows too few of these documents.",
}


@dataclass(frozen=True)
class Configuration:
    """Which features are clamped, and how far.

    Attributes:
        tau: features that fire on more than this share of the retained text are dropped.
        n: how many of the rest are taken, by how often they fire on the text to be forgotten.
        m: how far they are clamped: in median norms of the activations (scaled grid), or in units of the activations.
        features: which they are.
    """

    tau: float
    n: int
    m: float
    features: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """What a configuration does on one set of documents.

    Attributes:
        forget: accuracy on what is to be forgotten; 1 without any change.
        retain: accuracy on the rest; 1 without any change.
        ce_rise: by how much the loss on the retained documents rises, in nats a token.
    """

    forget: float
    retain: float
    ce_rise: float


@dataclass(frozen=True)
class Found:
    """The best configuration within some limits: chosen on the dev documents, reported on the test documents.

    Attributes:
        status: why there is none, if it is not `ok`.
        score: 1 - forget accuracy on the test documents; None if there is none.
        interval: of it, 95%, bootstrap over the documents.
        configuration: the one chosen.
        dev, test: what it does on either.
        violations: the limits that it breaks on the test documents.
        tried: how many different configurations were looked at.
        forgotten: the score on each of the test documents.
    """

    status: Status
    score: float | None = None
    interval: tuple[float, float] | None = None
    configuration: Configuration | None = None
    dev: Outcome | None = None
    test: Outcome | None = None
    violations: tuple[str, ...] = ()
    tried: int = 0
    forgotten: tuple[float, ...] = ()


@dataclass(frozen=True)
class TopicResult:
    """Forgetting one topic.

    Attributes:
        topic: its name.
        status: that of the headline.
        headline: score within both limits, on retain accuracy and on the rise of the loss; scaled grid.
        published_form: within the limit on retain accuracy alone, scaled grid: what the published score rewards.
        published_grid: the same with the published grid, whose numbers are in units of the activations.
        controls: headline of each control, under the same limits.
        above_random: 95% interval of the headline less the best random control, on the same documents; None without
            controls or a headline.
        curve: (rise of the loss, score) of some configurations within the limit on retain accuracy, on dev.
        refitted: accuracy of a probe that is fitted anew to the changed model's states, for the topic against the rest:
            what is left to read. The same without any change is `refitted_clean`. None for multiple choice.
        known: how many documents of the topic, and of the others, the clean model knows, of those not trained on.
        asked: how many of either are on test, and as many on dev.
        seconds: how long it took.
    """

    topic: str
    status: Status
    headline: Found
    published_form: Found
    published_grid: Found
    controls: Mapping[str, Found] = field(default_factory=dict)
    above_random: tuple[float, float] | None = None
    curve: tuple[tuple[float, float], ...] = ()
    refitted: float | None = None
    refitted_clean: float | None = None
    known: tuple[int, int] = (0, 0)
    asked: tuple[int, int] = (0, 0)
    seconds: float = 0.0


@dataclass(frozen=True)
class UnlearningResult:
    """Forgetting several topics, one at a time.

    Clamping nothing keeps within all limits and forgets nothing, so a topic for which no configuration does counts as 0
    in the means, and is counted out in `topics_ok`. A topic of which too little is known tells nothing and is left out.

    Attributes:
        status: `ok` if some configuration kept within the limits for one topic at least; otherwise that of the first.
        why: what that status means.
        headline: the mean of the topics' headlines.
        intervals: its 95% interval, from those of the topics.
        topics_ok: for how many topics some configuration kept within the limits.
        violated: for how many of those the test documents break them.
        published_form, published_ce_rise: the same without the limit on the loss, and by how much it then rises.
        random: the mean of the highest random control of each topic.
        clear: on how many topics the headline is above the best random control by more than chance, and within the
            limits on the test documents, too.
        topics: each topic.
    """

    status: Status
    why: str
    headline: float | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    topics_ok: int = 0
    violated: int = 0
    published_form: float | None = None
    published_ce_rise: float | None = None
    random: float | None = None
    clear: int | None = None
    topics: tuple[TopicResult, ...] = ()


def summarised(topics: Sequence[TopicResult]) -> UnlearningResult:
    """The topics together; their documents are different ones, so their errors are independent."""
    told = [t for t in topics if t.status != "too_few_known"]
    done = [t for t in told if t.status == "ok"]
    if not done:
        return UnlearningResult(topics[0].status, WHY[topics[0].status], topics=tuple(topics))
    headline = sum(_score(t.headline) for t in done) / len(told)
    half = math.hypot(*((t.headline.interval[1] - t.headline.interval[0]) / 2 for t in done if t.headline.interval))
    low, high = headline - half / len(told), headline + half / len(told)
    controlled = [t for t in told if t.controls]
    return UnlearningResult(
        status="ok",
        why="",
        headline=headline,
        intervals={"headline": (max(0.0, low), min(1.0, high))},
        topics_ok=len(done),
        violated=sum(bool(t.headline.violations) for t in done),
        published_form=sum(_score(t.published_form) for t in told) / len(told),
        published_ce_rise=sum(t.published_form.test.ce_rise for t in told if t.published_form.test) / len(told),
        random=sum(_score(best_random(t.controls)) for t in controlled) / len(controlled) if controlled else None,
        clear=sum(map(is_clear, controlled)) if controlled else None,
        topics=tuple(topics),
    )


def best_random(controls: Mapping[str, Found]) -> Found:
    """The random control with the highest score."""
    return max((found for name, found in controls.items() if name.startswith("random")), key=_score)


def compared_with_random(headline: Found, controls: Mapping[str, Found]) -> tuple[float, float] | None:
    """95% interval of the headline less the best random control: bootstrap over the test documents, the same of both.

    A control for which no configuration kept within the limits forgets nothing.
    """
    if not controls or not headline.forgotten:
        return None
    own = torch.tensor(headline.forgotten)
    other = torch.tensor(best_random(controls).forgotten or [0.0] * len(own))
    sums = torch.stack([own - other, torch.ones_like(own)], dim=1).double()
    _, intervals = figures_and_intervals(sums, lambda s: {"difference": s[..., 0] / s[..., 1]})
    return intervals["difference"]


def is_clear(topic: TopicResult) -> bool:
    """Whether the headline is above the best random control by more than chance, and breaks no limit."""
    return topic.above_random is not None and topic.above_random[0] > 0 and not topic.headline.violations


def _score(found: Found) -> float:
    return found.score or 0.0
