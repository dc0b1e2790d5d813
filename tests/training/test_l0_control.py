"""The controller of L0: on a plant with lag, in real training, resumed, and refused."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_run import metrics, open_source, run_settings, weights, whole_state

from sleave.base.errors import SleaveError
from sleave.training.l0_control import LEAST, MOST, L0Controller
from sleave.training.loop import train
from sleave.training.run import RunDirectory


class Plant:
    """L0 as it was seen to react (lr 3e-4): it falls at first, then grows by itself; a weight slows it, after a lag."""

    LAG, EVEN = 8, 4.0  # steps; the weight at which the sparsity term equals the squared error

    def __init__(self, pace=1.0, draw=None):
        self.y, self.felt, self.step, self.pace, self.draw = math.log(77), 0.0, 0, pace, draw

    def __call__(self, weight):
        measured = self.y + (0.007 * self.draw.standard_normal() if self.draw else 0.0)
        self.felt += (weight - self.felt) / self.LAG
        when = self.step * self.pace
        drift = -0.022 * math.exp(-when / 30) + 0.0016 * (1 - math.exp(-when / 90)) * math.exp(-max(0, when - 300) / 500)
        self.y += self.pace * (drift - 0.0008 * self.felt)
        self.step += 1
        return math.exp(measured), weight / self.EVEN


def controlled(target, plant, steps=300, weight=0.04, lr=3e-4):
    """L0 and weight of every step."""
    controller = L0Controller(target, weight, steps, lr)
    seen = []
    for _ in range(steps):
        l0, share = plant(weight)
        seen.append((l0, weight))
        weight = controller.update(l0, share)
    return seen


def last(seen, share=6):
    tail = seen[-len(seen) // share :]
    return sum(l0 for l0, _ in tail) / len(tail)
