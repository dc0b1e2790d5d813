import math

import pytest

from sleave.training.schedules import learning_rate, warmup
from sleave.training.settings import OptimizerSettings

STEPS, WARM = 110, 10  # so that 100 steps are left after warm-up


def rates(schedule, *steps, warm=WARM):
    settings = OptimizerSettings(lr=0.5, schedule=schedule, warmup_steps=warm)
    return [learning_rate(settings, step, STEPS) for step in steps]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_warm_up_is_the_same_for_all(schedule):
    assert rates(schedule, 0, 4, 9, 10) == pytest.approx([0.05, 0.25, 0.5, 0.5])


def test_constant_stays():
    assert rates("constant", 60, 109) == [0.5, 0.5]
    assert rates("constant", 0, 109, warm=0) == [0.5, 0.5]


def test_linear_falls_by_the_same_amount_every_step():
    assert rates("linear", 10, 11, 60, 109) == pytest.approx([0.5, 0.495, 0.25, 0.005])
    assert rates("linear", 0, 55, 109, warm=0) == pytest.approx([0.5, 0.25, 0.5 / 110])


def test_cosine_falls_along_half_a_wave():
    last = 0.25 * (1 + math.cos(math.pi * 0.99))
    assert rates("cosine", 10, 35, 60, 109) == pytest.approx([0.5, 0.25 + 0.25 * math.sqrt(0.5), 0.25, last])
    assert rates("cosine", 0, 55, warm=0) == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_warm_up_longer_than_the_run_never_falls(schedule):
    assert rates(schedule, 0, 54, 109, warm=220) == pytest.approx([0.5 / 220, 0.125, 0.25])


def test_warmup_of_a_weight():
    assert [warmup(step, 4) for step in (0, 1, 2, 3, 4, 1000)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert [warmup(step, 0) for step in (0, 7)] == [1, 1]
    assert warmup(0, 1) == 1
