"""What comes of unlearning: plain values, all of which JSON has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "infeasible", "no_candidates", "too_few_known"]

WHY: Mapping[str, str] = {
    "ok": "",
    "infeasible": "No configuration keeps within the limits on what is retained.",
    "no_candidates": "No feature fires on the topic and seldom enough on what is retained.",
    "too_few_known": "The probes know too few of these documents.",
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
    """

    status: Status
    score: float | None = None
    interval: tuple[float, float] | None = None
    configuration: Configuration | None = None
    dev: Outcome | None = None
    test: Outcome | None = None
    violations: tuple[str, ...] = ()
    tried: int = 0


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
        curve: (rise of the loss, score) of some configurations within the limit on retain accuracy, on dev.
        refitted: accuracy of probes that are fitted anew to the changed model's states, for the topic against the rest:
            what is left to read. The same without any change is `refitted_clean`.
        known: how many documents of the topic, and of the others, all probes get right, of those they did not see.
        seconds: how long it took.
    """

    topic: str
    status: Status
    headline: Found
    published_form: Found
    published_grid: Found
    controls: Mapping[str, Found]
    curve: tuple[tuple[float, float], ...]
    refitted: float | None
    refitted_clean: float | None
    known: tuple[int, int]
    seconds: float


@dataclass(frozen=True)
class UnlearningResult:
    """Forgetting several topics, one at a time.

    Attributes:
        status: `ok` if there is a headline for one topic at least, otherwise that of the first topic.
        why: what that status means.
        headline: the mean of the topics' headlines, over those that have one.
        intervals: its 95% interval, from those of the topics.
        clear: on how many topics the whole interval is above those of all random controls.
        topics: each topic.
    """

    status: Status
    why: str
    headline: float | None
    intervals: Mapping[str, tuple[float, float]]
    clear: int | None
    topics: tuple[TopicResult, ...]


def summarised(topics: Sequence[TopicResult]) -> UnlearningResult:
    """The topics together; their documents are different ones, so their errors are independent."""
    done = [t.headline for t in topics if t.headline.score is not None and t.headline.interval is not None]
    if not done:
        status = topics[0].status
        return UnlearningResult(status, WHY[status], None, {}, None, tuple(topics))
    mean = sum(f.score for f in done if f.score is not None) / len(done)
    half = math.hypot(*((f.interval[1] - f.interval[0]) / 2 for f in done if f.interval)) / len(done)
    interval = (max(0.0, mean - half), min(1.0, mean + half))
    controlled = [is_clear(t) for t in topics if t.controls]
    return UnlearningResult(
        "ok", "", mean, {"headline": interval}, sum(controlled) if controlled else None, tuple(topics)
    )


def is_clear(topic: TopicResult) -> bool:
    """Whether the whole interval of the headline is above those of all random controls."""
    if topic.headline.interval is None:
        return False
    random = [f.interval[1] for name, f in topic.controls.items() if name.startswith("random") and f.interval]
    return topic.headline.interval[0] > max(random, default=0.0)
