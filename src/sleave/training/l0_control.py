"""Holding L0 at a target, by the weight of the sparsity term."""

from __future__ import annotations

import math
from collections.abc import Mapping

GAIN, FALL, AT = 14.0, 0.9, 3e-4  # at a learning rate of 3e-4, and how it falls as that rises; measured
MOST_GAIN = 20.0  # beyond, the noise of a batch would move the weight
REACHED = 0.5  # of the run, after which L0 should be at its target
HORIZON = 0.1  # of the run, within which what is left is corrected from then on, or sooner:
SETTLED = 0.15  # when the learning rates of the steps add up to this, L0 has followed the weight
SMOOTHING = 5.0  # steps; batches differ
FELT = 0.1  # share of the variance at which the sparsity term begins to be felt
LEAST, MOST = 0.01, 100.0  # bounds of the weight, in multiples of the one that is just felt
EMPTY = 0.01  # a batch on which less than this share of the target fires counts as that


class L0Controller:
    """Moves the weight of the sparsity term so that a run ends at a given L0.

    A proportional-integral controller in its incremental form, which needs no guard against windup but its bounds. With
    y the logarithm of L0, smoothed over a few steps, and the weight w = s sinh(u):

        u += gain (dy - dy*),    dy* = (log target - y) / steps left

    dy* is the change in a step that takes L0 to its target by half of the run, and what is left then within 10% of it.
    L0 follows the weight over decades, so that u is its logarithm; but that of what is too small to be felt would be
    long on its way back, and so u is linear there. s is the weight at which the sparsity term is a tenth of the batch's
    variance, the smallest so far: a weight that makes the codes small must not raise its own scale (at most halved in a
    step: a batch of next to no variance says nothing). Adam moves weights
    by the learning rate, so that the higher it is, the sooner L0 reacts; then the gain must be smaller, and what is
    left can be corrected sooner.

    Args:
        target: L0, how many features shall fire on a row.
        weight: where the weight starts.
        steps: of the whole run.
        lr: learning rate.

    Attributes:
        weight: what the sparsity term of the next step is to be multiplied by.
    """

    def __init__(self, target: float, weight: float, steps: int, lr: float) -> None:
        self.target = target
        self.steps = steps
        self.weight = weight
        self.gain = min(GAIN * (AT / lr) ** FALL, MOST_GAIN)
        self.horizon = max(min(HORIZON * steps, SETTLED / lr), SMOOTHING)
        self._felt = math.inf
        self._level = math.nan
        self._step = 0

    def update(self, l0: float, share: float) -> float:
        """Take note of a step, and give the weight of the next.

        Args:
            l0: how many features fired on a row of its batch, on average.
            share: its sparsity term, with the weight in force, over the variance of the batch.
        """
        y = math.log(max(l0, EMPTY * self.target))
        before = y if math.isnan(self._level) else self._level
        self._level = before + (y - before) / SMOOTHING
        self._step += 1
        if 0 < share < math.inf:
            felt = FELT * self.weight / share
            self._felt = felt if math.isinf(self._felt) else min(self._felt, max(felt, self._felt / 2))
        if math.isinf(self._felt):  # nothing has fired so far
            return self.weight
        left = max(REACHED * self.steps - self._step, self.horizon)
        wanted = (math.log(self.target) - self._level) / left
        u = math.asinh(self.weight / self._felt) + self.gain * (self._level - before - wanted)
        self.weight = self._felt * math.sinh(min(max(u, math.asinh(LEAST)), math.asinh(MOST)))
        return self.weight

    def state(self) -> dict[str, float]:
        """Everything needed to go on as if never stopped."""
        return {"weight": self.weight, "felt": self._felt, "level": self._level, "step": self._step}

    def restore(self, state: Mapping[str, float]) -> None:
        """Take up what `state` returned."""
        self.weight, self._felt, self._level = state["weight"], state["felt"], state["level"]
        self._step = int(state["step"])
