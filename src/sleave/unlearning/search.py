"""The search for the configuration that forgets most and harms least."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sleave.behaviour.results import figures_and_intervals
from sleave.unlearning.dictionary import Dictionary
from sleave.unlearning.documents import Change, Documents, Finals, Judge
from sleave.unlearning.results import Configuration, Found, Outcome

Order = Callable[[float], Int64[Tensor, " features"]]
"""From tau, features by how well they suit: those to be clamped first come first."""


@dataclass(frozen=True)
class Grid:
    """Which configurations are tried.

    Attributes:
        taus, ns, ms: see `Configuration`.
        absolute: whether m is in units of the activations, and tau a share of the text as it is; otherwise m is in
            median norms, and tau in mean firing rates.
    """

    taus: tuple[float, ...]
    ns: tuple[int, ...]
    ms: tuple[float, ...]
    absolute: bool = False


SCALED = Grid((0.5, 1.0, 2.0), (1, 2, 5, 10, 20), (0.05, 0.1, 0.25, 0.5))
# Karvonen et al. 2025, SAEBench, arXiv 2503.09532, section on unlearning.
PUBLISHED = Grid((0.001, 0.01), (10, 20), (25.0, 50.0, 100.0, 200.0), absolute=True)
ZERO = replace(SCALED, ms=(0.0,))


@dataclass(frozen=True)
class Limits:
    """What a configuration must keep to.

    Attributes:
        retain: the least accuracy on what is retained.
        ce_rise: the most that the loss may rise; infinity for no limit.
    """

    retain: float
    ce_rise: float = math.inf


@dataclass(frozen=True, eq=False)
class Sides:
    """Documents to be forgotten and to be retained, all of which the clean model gets right."""

    forget: Sequence[int]
    retain: Sequence[int]


@dataclass(frozen=True, eq=False)
class Asked:
    """The documents of both sides, and what the model says of them when its activations are changed.

    Attributes:
        documents: all documents.
        judge: says whether an answer is right.
        sides: which of them are asked about.
    """

    documents: Documents
    judge: Judge
    sides: Sides
    _last: list[tuple[Change, list[Finals]]] = field(default_factory=list)

    def forget(self, change: Change) -> Float[Tensor, " forget"]:
        """How right the answers on each document to be forgotten are."""
        changed = self._changed(self.sides.forget, change)
        return self._right(self.sides.forget, changed, self.documents.finals(changed, change))

    def retain(self, change: Change) -> float:
        """Accuracy on the retained documents."""
        changed = self._changed(self.sides.retain, change)
        return float(self._right(self.sides.retain, changed, self._retained(changed, change)).mean())

    def ce_rise(self, change: Change) -> float:
        """By how much the loss on the retained documents rises, in nats a token."""
        changed = self._changed(self.sides.retain, change)
        found = self.documents.loss(self._retained(changed, change))
        rise = sum(found[d][0] - self._clean[d][0] for d in changed)
        return rise / sum(count for _, count in self._clean.values())

    @cached_property
    def _clean(self) -> dict[int, tuple[float, int]]:
        return self.documents.loss(self.documents.finals(self.sides.retain))

    def _changed(self, some: Sequence[int], change: Change) -> list[int]:
        touched = self.documents.touched(change)
        return [d for d in some if touched[d]]

    def _right(self, some: Sequence[int], changed: Sequence[int], finals: Iterable[Finals]) -> Tensor:
        """Documents that the change does not touch are right, as they were before."""
        right = dict(zip(changed, self.documents.right(changed, self.judge, finals).tolist(), strict=True))
        return torch.tensor([right.get(d, 1.0) for d in some])

    def _retained(self, changed: Sequence[int], change: Change) -> list[Finals]:
        """Final states of retained documents, kept until those of another change are asked for."""
        if not (self._last and self._last[0][0] is change):
            self._last[:] = [(change, list(self.documents.finals(changed, change)))]
        return self._last[0][1]


@dataclass(frozen=True, eq=False)
class Trial:
    """A configuration on the dev documents; of what is retained, each figure is measured once, when it is asked for.

    Attributes:
        configuration: which features, and how far.
        change: what it does to the activations.
        dev: the documents.
        forget: accuracy on what is to be forgotten.
    """

    configuration: Configuration
    change: Change
    dev: Asked
    forget: float

    @cached_property
    def retain(self) -> float:
        """Accuracy on the rest."""
        return self.dev.retain(self.change)

    @cached_property
    def ce_rise(self) -> float:
        """By how much the loss on the rest rises, in nats a token."""
        return self.dev.ce_rise(self.change)


def by_rates(forget: Float[Tensor, " d_sae"], retain: Float[Tensor, " d_sae"]) -> Order:
    """The published order: features that fire on at most tau of the retained text, by how often on the other.

    Args:
        forget, retain: the share of the text to be forgotten, and to be retained, that each feature fires on.
    """

    def order(tau: float) -> Int64[Tensor, " features"]:
        kept = ((retain <= tau) & (forget > 0)).nonzero().flatten()
        return kept[forget[kept].argsort(descending=True, stable=True)]

    return order


def configurations(grid: Grid, dictionary: Dictionary, order: Order) -> list[Configuration]:
    """The different configurations of a grid, of the same features the strongest clamp first."""
    unit = 1.0 if grid.absolute else float(dictionary.rates.mean())
    found: dict[tuple[tuple[int, ...], float], Configuration] = {}
    for tau, n, m in product(grid.taus, grid.ns, sorted(grid.ms, reverse=True)):
        features = tuple(sorted(order(tau * unit)[:n].tolist()))
        if features:
            found.setdefault((features, m), Configuration(tau * unit, n, m, features))
    return list(found.values())


def change_of(dictionary: Dictionary, configuration: Configuration, absolute: bool) -> Change:
    """What a configuration does to the activations."""
    features = torch.tensor(configuration.features)
    return dictionary.clamped(features, configuration.m, configuration.m if absolute else None)


def search(
    dev: Asked, dictionary: Dictionary, order: Order, grid: Grid, advance: Callable[[int], None] = lambda done: None
) -> list[Trial]:
    """Every configuration of a grid, best first; of equal scores, the one that clamps less.

    Only what is to be forgotten is asked about here: whether the rest is retained, and at what cost, is asked of one
    configuration after the other until one will do, which gives the same answer for half the work. Where a clamp makes
    the model forget nothing at all, weaker clamps of the same features are taken to do the same and are not asked
    about, which spares most of what remains.

    Args:
        dev: the documents to choose by.
        dictionary: what is clamped.
        order: which features first.
        grid: which configurations.
        advance: told after each configuration.
    """
    trials: list[Trial] = []
    harmless: set[tuple[int, ...]] = set()
    for configuration in configurations(grid, dictionary, order):
        change = change_of(dictionary, configuration, grid.absolute)
        asked = configuration.features not in harmless
        forget = float(dev.forget(change).mean()) if asked else 1.0
        if forget == 1:
            harmless.add(configuration.features)
        trials.append(Trial(configuration, change, dev, forget))
        advance(1)
    return sorted(trials, key=lambda t: (t.forget, len(t.configuration.features), t.configuration.m))


def best(trials: Sequence[Trial], test: Asked, limits: Limits) -> Found:
    """The first configuration that keeps within the limits on the dev documents, on the test documents.

    Args:
        trials: of one grid, best first.
        test: the documents to report.
        limits: what must be kept to.
    """
    if not trials:
        return Found("no_candidates")
    for trial in trials:
        if trial.retain >= limits.retain and (limits.ce_rise == math.inf or trial.ce_rise <= limits.ce_rise):
            return _reported(trial, test, limits, len(trials))
    return Found("infeasible", tried=len(trials))


def _reported(trial: Trial, test: Asked, limits: Limits, tried: int) -> Found:
    forget, retain, rise = test.forget(trial.change), test.retain(trial.change), test.ce_rise(trial.change)
    sums = torch.stack([1 - forget, torch.ones_like(forget)], dim=1).double()
    found, intervals = figures_and_intervals(sums, lambda s: {"score": s[..., 0] / s[..., 1]})
    broken = [f"retain accuracy {retain:.3f} < {limits.retain}"] * (retain < limits.retain)
    broken += [f"the loss rises by {rise:.3f} > {limits.ce_rise}"] * (rise > limits.ce_rise)
    return Found(
        "ok",
        found["score"],
        intervals["score"],
        trial.configuration,
        Outcome(trial.forget, trial.retain, trial.ce_rise),
        Outcome(float(forget.mean()), retain, rise),
        tuple(broken),
        tried,
        tuple((1 - forget).tolist()),
    )
