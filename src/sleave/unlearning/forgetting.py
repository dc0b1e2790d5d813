"""Forgetting one side of what the model is asked: scores within limits, with controls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch

from sleave.activations.scaling import Scaling
from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.errors import SleaveError, nearest
from sleave.behaviour.probes import fit_probe
from sleave.unlearning.controls import matched_random, only, random_dictionary, topic_direction
from sleave.unlearning.dictionary import Dictionary, dictionary_of
from sleave.unlearning.documents import Change
from sleave.unlearning.questions import Questions
from sleave.unlearning.results import Found, TopicResult, compared_with_random
from sleave.unlearning.search import PUBLISHED, SCALED, ZERO, Grid, Limits, Order, Trial, best, change_of
from sleave.unlearning.settings import ForgettingSettings
from sleave.unlearning.task import Task

RANDOM_SEEDS = 3
POINTS = 8  # of a curve
REGULARISATION = 10.0  # of the probe that is fitted afterwards


def forget(
    sae: SparseAutoencoder,
    questions: Questions,
    scaling: Scaling,
    settings: ForgettingSettings,
    done: Mapping[str, TopicResult] = MappingProxyType({}),
    keep: Callable[[TopicResult], None] = lambda topic: None,
) -> list[TopicResult]:
    """Forget one topic after the other by clamping an autoencoder's features.

    Args:
        sae: reads raw activations of the layer that the questions were read up to.
        questions: see `read_topics` and `read_multiple_choice`; they can serve many autoencoders.
        scaling: from raw activations to those it was trained on, in whose units clamps are counted.
        settings: which topics, and within what limits.
        done: topics that are known already.
        keep: told of each other one as soon as it is known.

    Raises:
        SleaveError: there is no such topic, or the width of the autoencoder is another than the model's.

    Reference: Farrell, Lau & Conmy 2024, arXiv 2410.19278; Karvonen et al. 2025, SAEBench, arXiv 2503.09532: of answers
    to multiple-choice questions.
    """
    check_topics(settings, questions.topics)
    dictionary = dictionary_of(sae, questions.documents, scaling, questions.all_train)
    others = random_dictionary(dictionary, questions, scaling.scale, settings.seed) if settings.controls else None
    with_what = _With(dictionary, others, scaling, settings)
    found = []
    for name in settings.topics or questions.topics:
        topic = done.get(name)
        if topic is None:
            topic = _forget(questions.topics.index(name), questions, with_what)
            keep(topic)
        found.append(topic)
    return found


def check_topics(settings: ForgettingSettings, there: Sequence[str]) -> None:
    """Make sure that every topic to be forgotten is there.

    Raises:
        SleaveError: one is not.
    """
    for name in settings.topics:
        if name not in there:
            raise SleaveError(f"There is no topic `{name}` to forget. {nearest(name, there)}")


@dataclass(frozen=True, eq=False)
class _With:
    """What topics are forgotten with."""

    dictionary: Dictionary
    others: Dictionary | None
    scaling: Scaling
    settings: ForgettingSettings

    @property
    def limits(self) -> Limits:
        return Limits(self.settings.retain_accuracy, self.settings.ce_rise)


def _forget(topic: int, questions: Questions, what: _With) -> TopicResult:
    began = time.perf_counter()
    name = questions.topics[topic]
    forget, retain = questions.of(topic, questions.known)
    known = (len(forget), len(retain))
    task = Task.of(questions, topic, what.settings.documents)
    if task is None:
        few = Found("too_few_known")
        return TopicResult(name, few.status, few, few, few, known=known, seconds=time.perf_counter() - began)
    limits, free = what.limits, replace(what.limits, ce_rise=math.inf)
    order = task.order(what.dictionary)
    trials = task.search(what.dictionary, order, SCALED, "scaled grid")
    headline = best(trials, task.test, limits)
    published = task.search(what.dictionary, order, PUBLISHED, "published grid")
    controls = _controls(task, order, what.others, what) if what.others is not None else {}
    return TopicResult(
        topic=name,
        status=headline.status,
        headline=headline,
        published_form=best(trials, task.test, free),
        published_grid=best(published, task.test, free),
        controls=controls,
        above_random=compared_with_random(headline, controls),
        curve=_curve(trials, limits),
        refitted=_refitted(task, headline, what.dictionary),
        refitted_clean=_read_off(task, None),
        known=known,
        asked=(len(task.test.sides.forget), len(task.test.sides.retain)),
        seconds=time.perf_counter() - began,
    )


def _controls(task: Task, order: Order, others: Dictionary, what: _With) -> dict[str, Found]:
    """What else is clamped on the same grid, chosen and reported in the same way."""
    dictionary, seed = what.dictionary, what.settings.seed
    direction = topic_direction(task, what.scaling.scale, dictionary.norm)
    tried: dict[str, tuple[Dictionary, Order, Grid]] = {
        **{
            f"random features {n}": (dictionary, matched_random(order, dictionary, seed + n, max(SCALED.ns)), SCALED)
            for n in range(RANDOM_SEEDS)
        },
        "random dictionary": (others, task.order(others), SCALED),
        "zero ablation": (dictionary, order, ZERO),
        "topic direction": (direction, only(), SCALED),
    }
    return {name: best(task.search(*how, name), task.test, what.limits) for name, how in tried.items()}


def _curve(trials: Sequence[Trial], limits: Limits) -> tuple[tuple[float, float], ...]:
    """(rise of the loss, score) of some configurations that forget anything, by the rise."""
    telling = [t for t in trials if t.forget < 1] or trials[:1]
    count = min(POINTS, len(telling))
    some = [telling[n * len(telling) // count] for n in range(count)]
    return tuple(sorted((t.ce_rise, 1 - t.forget) for t in some if t.retain >= limits.retain))


def _refitted(task: Task, headline: Found, dictionary: Dictionary) -> float | None:
    if headline.configuration is None:
        return None
    return _read_off(task, change_of(dictionary, headline.configuration, absolute=False))


def _read_off(task: Task, change: Change | None) -> float | None:
    """Balanced accuracy of a probe of the topic against the rest that is fitted to the changed model's own states.

    None where the sides are not told apart by what their texts are about.
    """
    questions, train, asked = task.questions, task.train, task.test.sides
    if questions.pooled is None:
        return None
    fitted, checked = [*train[0], *train[1]], [*asked.forget, *asked.retain]
    if change is None:
        states = [questions.pooled[fitted], questions.pooled[checked]]
    else:
        documents = questions.documents
        states = [documents.pooled(some, documents.finals(some, change)) for some in (fitted, checked)]
    probe = fit_probe(states[0], torch.arange(len(fitted)) < len(train[0]), REGULARISATION)
    says = probe.scores(states[1]) > 0
    n = len(asked.forget)
    return float(says[:n].float().mean() + (~says[n:]).float().mean()) / 2
