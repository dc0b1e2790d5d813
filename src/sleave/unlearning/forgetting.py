"""Forgetting one side of what the model is asked: scores within limits, with controls."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sleave.activations.scaling import Scaling
from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.errors import SleaveError, nearest
from sleave.base.progress import progress
from sleave.behaviour.probes import fit_probes
from sleave.unlearning.controls import matched_random, only, probe_direction, random_dictionary
from sleave.unlearning.dictionary import Dictionary, dictionary_of
from sleave.unlearning.documents import Change
from sleave.unlearning.questions import Questions
from sleave.unlearning.results import Found, TopicResult
from sleave.unlearning.search import (
    PUBLISHED,
    SCALED,
    ZERO,
    Asked,
    Grid,
    Limits,
    Order,
    Sides,
    Trial,
    best,
    by_rates,
    change_of,
    configurations,
    search,
)
from sleave.unlearning.settings import ForgettingSettings

RANDOM_SEEDS = 3
POINTS = 12  # of a curve
FEW = 8  # known documents of a side; fewer decide nothing


@dataclass(frozen=True, eq=False)
class Task:
    """One topic to forget.

    Attributes:
        questions: all topics.
        topic: which one.
        dev, test: known documents to choose a configuration by, and to report.
    """

    questions: Questions
    topic: int
    dev: Asked
    test: Asked

    @staticmethod
    def of(questions: Questions, topic: int, documents: int) -> Task | None:
        """The task, with so many documents a side, or fewer; None if too few are known."""
        forget, retain = questions.of(topic, questions.known)
        n = min(documents, len(forget) // 2, len(retain) // 2)
        sides = (Sides(forget[:n], retain[:n]), Sides(forget[n : 2 * n], retain[n : 2 * n]))
        dev, test = (Asked(questions.documents, questions.judge, s) for s in sides)
        return Task(questions, topic, dev, test) if n >= FEW else None

    @property
    def train(self) -> tuple[list[int], list[int]]:
        """Documents of the topic and of the others that features are chosen by."""
        return self.questions.of(self.topic, self.questions.train)

    def order(self, dictionary: Dictionary) -> Order:
        """The published order, by how often features fire on the training documents."""
        forget, retain = (dictionary.rates_on(self.questions.documents, side) for side in self.train)
        return by_rates(forget, retain)

    def search(self, dictionary: Dictionary, order: Order, grid: Grid, title: str) -> list[Trial]:
        """Every configuration of a grid, best first."""
        name = f"Forgetting {self.questions.topics[self.topic]}, {title}"
        with progress(name, len(configurations(grid, dictionary, order)), "configurations") as advance:
            return search(self.dev, dictionary, order, grid, lambda done: advance(done, ""))


def forget(
    sae: SparseAutoencoder, questions: Questions, scaling: Scaling, settings: ForgettingSettings
) -> list[TopicResult]:
    """Forget one topic after the other by clamping an autoencoder's features.

    Args:
        sae: reads raw activations of the layer that the questions were read up to.
        questions: see `read_questions`; they can serve many autoencoders.
        scaling: from raw activations to those it was trained on, in whose units clamps are counted.
        settings: which topics, and within what limits.

    Raises:
        SleaveError: there is no such topic, or the width of the autoencoder is another than the model's.

    Reference: Farrell, Lau & Conmy 2024, arXiv 2410.19278; Karvonen et al. 2025, SAEBench, arXiv 2503.09532: of answers
    to multiple-choice questions.
    """
    for name in settings.topics:
        if name not in questions.topics:
            raise SleaveError(f"There is no topic `{name}`. {nearest(name, questions.topics)}")
    dictionary = dictionary_of(sae, questions.documents, scaling)
    wanted = settings.topics or questions.topics
    return [_forget_one(questions.topics.index(name), dictionary, questions, scaling, settings) for name in wanted]


def _forget_one(
    topic: int, dictionary: Dictionary, questions: Questions, scaling: Scaling, settings: ForgettingSettings
) -> TopicResult:
    began = time.perf_counter()
    name = questions.topics[topic]
    known = (len((sides := questions.of(topic, questions.known))[0]), len(sides[1]))
    task = Task.of(questions, topic, settings.documents)
    if task is None:
        few = Found("too_few_known")
        return TopicResult(name, few.status, few, few, few, {}, (), None, None, known, time.perf_counter() - began)
    limits = Limits(settings.retain_accuracy, settings.ce_rise)
    order = task.order(dictionary)
    trials = task.search(dictionary, order, SCALED, "scaled grid")
    headline = best(trials, task.test, limits)
    published = task.search(dictionary, order, PUBLISHED, "published grid")
    controls = _controls(task, dictionary, order, scaling, limits, settings.seed) if settings.controls else {}
    change = change_of(dictionary, headline.configuration, absolute=False) if headline.configuration else None
    return TopicResult(
        topic=name,
        status=headline.status,
        headline=headline,
        published_form=best(trials, task.test, replace(limits, ce_rise=math.inf)),
        published_grid=best(published, task.test, replace(limits, ce_rise=math.inf)),
        controls=controls,
        curve=_curve(trials, limits),
        refitted=None if change is None else _refitted(task, change),
        refitted_clean=_refitted(task, None),
        known=known,
        seconds=time.perf_counter() - began,
    )


def _controls(
    task: Task, dictionary: Dictionary, order: Order, scaling: Scaling, limits: Limits, seed: int
) -> dict[str, Found]:
    """What else is clamped on the same grid, chosen and reported in the same way."""
    documents = task.questions.documents
    others = random_dictionary(dictionary, documents, scaling.scale, seed)
    probe = probe_direction(documents, *task.train, scaling.scale, dictionary.norm)
    tried: dict[str, tuple[Dictionary, Order, Grid]] = {
        **{
            f"random features {n}": (dictionary, matched_random(order, dictionary, seed + n), SCALED)
            for n in range(RANDOM_SEEDS)
        },
        "random dictionary": (others, task.order(others), SCALED),
        "zero ablation": (dictionary, order, ZERO),
        "probe direction": (probe, only(), SCALED),
    }
    return {name: best(task.search(*what, name), task.test, limits) for name, what in tried.items()}


def _curve(trials: Sequence[Trial], limits: Limits) -> tuple[tuple[float, float], ...]:
    """(rise of the loss, score) of some configurations from the best to the worst, by the rise."""
    some = trials[:: max(1, len(trials) // POINTS)]
    return tuple(sorted((t.ce_rise, 1 - t.forget) for t in some if t.retain >= limits.retain))


def _refitted(task: Task, change: Change | None) -> float:
    """Balanced accuracy of a probe of the topic against the rest that is fitted to the changed model's own states."""
    documents = task.questions.documents
    sides, asked = task.train, task.test.sides
    fit, check = (
        documents.pooled([*forget, *retain], change) for forget, retain in (sides, (asked.forget, asked.retain))
    )
    label = torch.tensor([1] * len(sides[0]) + [0] * len(sides[1]))
    probe = fit_probes(fit, label, 1, 0)
    right = probe.topics(check)[0]
    n = len(asked.forget)
    return float((right[:n] == 1).float().mean() + (right[n:] == 0).float().mean()) / 2
