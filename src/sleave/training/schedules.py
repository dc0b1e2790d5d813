"""Factors between 0 and 1 as functions of the step, so that resuming needs no state."""

from __future__ import annotations

import math

from sleave.training.settings import OptimizerSettings


def warmup(step: int, steps: int) -> float:
    """Rises linearly to 1 over the first `steps` steps: 1/steps at step 0, 1 at step steps - 1 and after."""
    return min(1.0, (step + 1) / steps) if steps else 1.0


def learning_rate(settings: OptimizerSettings, step: int, steps: int) -> float:
    """The learning rate of update number `step` (from 0) of `steps`.

    After warm-up it stays (`constant`), or falls over what is left so that it would reach 0 right after the last
    update (`linear`, `cosine`).
    """
    rate = settings.lr * warmup(step, settings.warmup_steps)
    if settings.schedule == "constant" or step < settings.warmup_steps:
        return rate
    done = (step - settings.warmup_steps) / max(1, steps - settings.warmup_steps)
    return rate * (1 - done if settings.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done)))
