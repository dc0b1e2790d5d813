"""What comes of unlearning: plain values, all of which JSON has."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
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
        published_form, published_ce_rise: the same without the limit on the loss, and by how much it then rises.
        random: the mean of the highest random control of each topic.
        clear: on how many topics the whole interval is above those of all random controls.
        topics: each topic.
    """

    status: Status
    why: str
    headline: float | None
    intervals: Mapping[str, tuple[float, float]]
    published_form: float | None
    published_ce_rise: float | None
    random: float | None
    clear: int | None
    topics: tuple[TopicResult, ...]


def summarised(topics: Sequence[TopicResult]) -> UnlearningResult:
    """The topics together; their documents are different ones, so their errors are independent."""
    done = [t for t in topics if t.headline.interval is not None]
    if not done:
        status = topics[0].status
        return UnlearningResult(status, WHY[status], None, {}, None, None, None, None, tuple(topics))
    headline = statistics.fmean(t.headline.score or 0.0 for t in done)
    half = math.hypot(*((t.headline.interval[1] - t.headline.interval[0]) / 2 for t in done if t.headline.interval))
    low, high = headline - half / len(done), headline + half / len(done)
    free = [t.published_form for t in done]
    controlled = [t for t in done if t.controls]
    return UnlearningResult(
        status="ok",
        why="",
        headline=headline,
        intervals={"headline": (max(0.0, low), min(1.0, high))},
        published_form=_mean(f.score for f in free),
        published_ce_rise=_mean(f.test.ce_rise for f in free if f.test is not None),
        random=_mean(max(f.score or 0.0 for f in randoms(t)) for t in controlled),
        clear=sum(map(is_clear, controlled)) if controlled else None,
        topics=tuple(topics),
    )


def randoms(topic: TopicResult) -> list[Found]:
    """The random controls."""
    return [found for name, found in topic.controls.items() if name.startswith("random")]


def is_clear(topic: TopicResult) -> bool:
    """Whether the whole interval of the headline is above those of all random controls."""
    if topic.headline.interval is None:
        return False
    return topic.headline.interval[0] > max((f.interval[1] for f in randoms(topic) if f.interval), default=0.0)


def _mean(values: Iterable[float | None]) -> float | None:
    there = [v for v in values if v is not None]
    return statistics.fmean(there) if there else None
