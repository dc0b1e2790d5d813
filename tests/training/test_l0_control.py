"""The controller of L0: on a plant with lag, in real training, resumed, and refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_run import metrics, open_source, run_settings, weights, whole_state

from sleave.base.errors import SleaveError
from sleave.base.files import load_tensors
from sleave.estimator import SparseAutoencoderEstimator
from sleave.training.l0_control import LEAST, MOST, L0Controller
from sleave.training.loop import train
from sleave.training.run import RunDirectory


class Plant:
    """L0 as it was seen to react at a learning rate of 3e-4.

    By itself it falls at first and then grows. A weight slows it after a lag, and what that did is slowly forgotten.
    """

    LAG, EVEN = 8, 8.0  # steps; the weight at which the sparsity term equals the variance

    def __init__(self, pace=1.0, draw=None):
        self.free, self.moved, self.felt, self.step, self.pace, self.draw = math.log(77), 0.0, 0.0, 0, pace, draw

    def __call__(self, weight):
        noise = 0.007 * self.draw.standard_normal() if self.draw else 0.0
        l0 = math.exp(self.free + self.moved + noise)
        when = self.pace * self.step
        self.felt += (weight - self.felt) / self.LAG
        growth = 0.0016 * (1 - math.exp(-when / 90)) * math.exp(-max(0, when - 300) / 500)
        self.free += self.pace * (growth - 0.022 * math.exp(-when / 30))
        self.moved -= self.pace * (0.0012 * self.felt + 0.003 * self.moved)
        self.step += 1
        return l0, weight / self.EVEN


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


@pytest.mark.parametrize("weight", [0.001, 0.04, 1.0])
@pytest.mark.parametrize("target", [25, 32, 40])
def test_a_plant_with_lag_ends_at_the_target(target, weight):
    seen = controlled(target, Plant(draw=np.random.default_rng(0)), weight=weight)
    free = Plant()
    uncontrolled = last([free(0.0) for _ in range(300)])
    assert uncontrolled > 40
    assert last(seen) == pytest.approx(target, rel=0.03)
    assert min(l0 for l0, _ in seen) > 0.9 * target  # and does not fall far below on the way


@pytest.mark.parametrize("steps", [300, 1000, 3000])
def test_longer_runs_need_no_tuning(steps):
    seen = controlled(30, Plant(pace=300 / steps, draw=np.random.default_rng(1)), steps)
    assert last(seen) == pytest.approx(30, rel=0.03)


@settings(max_examples=60, deadline=None)
@given(
    target=st.floats(0.5, 500),
    weight=st.floats(1e-6, 1e3),
    lr=st.floats(1e-6, 1.0),
    steps=st.integers(1, 400),
    l0=st.lists(st.floats(0, 1000), min_size=1, max_size=100),
)
def test_the_weight_stays_within_its_bounds_whatever_l0_does(target, weight, lr, steps, l0):
    controller, felt = L0Controller(target, weight, steps, lr), math.inf
    for step, value in enumerate(l0):
        even = 3 + math.sin(step)
        felt = min(felt, 0.1 * even)
        weight = controller.update(value, weight / even)
        assert weight == controller.weight
        assert LEAST * felt * 0.999 <= weight <= MOST * felt * 1.001


@given(scale=st.sampled_from([1e-4, 1e4]))
def test_the_unit_of_the_loss_does_not_matter(scale):
    """The weights of a loss whose squared error is larger by some factor are larger by that factor."""

    def weights_of(factor):
        controller, weight, given = L0Controller(30, 0.04 * factor, 100, 3e-4), 0.04 * factor, []
        for step in range(100):
            weight = controller.update(60 - 0.3 * step, weight / (4 * factor))
            given.append(weight / factor)
        return given

    assert weights_of(scale) == pytest.approx(weights_of(1.0))


def test_it_pushes_the_right_way():
    """An L0 above the target raises the weight, one below lowers it, one that is there does neither."""
    for l0, way in ((40, 1), (30, 0), (20, -1)):
        controller, weight = L0Controller(30, 1.0, 100, 3e-4), 1.0
        for _ in range(20):
            weight = controller.update(l0, weight / 4)
        assert math.copysign(1, weight - 1) * (abs(weight - 1) > 1e-9) == way


def test_batches_on_which_nothing_fires():
    controller = L0Controller(30, 0.5, 100, 3e-4)
    assert controller.update(0.0, 0.0) == 0.5
    assert controller.update(0.0, 0.0) == 0.5
    assert math.isfinite(controller.update(10.0, 0.2))


def test_its_state_is_all_there_is():
    plant = Plant()
    whole, other = L0Controller(30, 0.04, 100, 3e-4), L0Controller(30, 0.04, 100, 3e-4)
    for _ in range(40):
        whole.update(*plant(whole.weight))
    other.restore(json.loads(json.dumps(whole.state())))
    for l0 in (31.0, 30.5, 29.0):
        assert other.update(l0, 0.2) == whole.update(l0, 0.2)


KINDS = {"relu": {}, "gated": {}, "jumprelu": {"threshold": 0.1}}


def run_to(path, store, kind, target, **changes):
    settings = run_settings(
        autoencoder={"kind": kind, "d_sae": 12, "firing_rate": 0.4, **KINDS[kind]},
        sparsity={"weight": 0.1, "warmup_steps": 0, "target_l0": target},
        **changes,
    )
    run = RunDirectory(path)
    if not run.started:
        run.begin({"a": 1})
    return run, settings


def known_features():
    """Rows of 64 dimensions, made of six of 256 features."""
    draw = np.random.default_rng(0)
    acts = draw.random((4000, 256)) * (draw.random((4000, 256)) < 6 / 256)
    return acts @ draw.normal(size=(256, 64))


@pytest.mark.parametrize("constraint", ["none", "selective"])
def test_training_ends_at_the_target(constraint):
    """Known features, six of which make a row; without a target, 17 fire."""
    x = known_features()
    model = SparseAutoencoderEstimator(
        256,
        architecture="relu",
        constraint=constraint,
        steps=200,
        batch_size=128,
        settings={"sparsity": {"target_l0": 9}},
        random_state=0,
    ).fit(x)
    assert float((model.transform(x) > 0).sum(axis=1).mean()) == pytest.approx(9, rel=0.05)


@pytest.mark.parametrize(("threshold_lr", "reached"), [(None, True), (1.0, False)])
def test_thresholds_learn_fast_enough_for_a_target(threshold_lr, reached):
    """As quickly as weights, they would move by 0.2 at most in these steps, while features fire at 1 and more."""
    x = known_features()
    model = SparseAutoencoderEstimator(
        256,
        architecture="jumprelu",
        constraint="none",
        steps=200,
        lr=1e-3,
        batch_size=128,
        settings={"sparsity": {"target_l0": 6}, "autoencoder": {"threshold_lr": threshold_lr}},
        random_state=0,
    ).fit(x)
    l0 = float((model.transform(x) > 0).sum(axis=1).mean())
    assert (l0 == pytest.approx(6, rel=0.1)) == reached


def test_what_a_run_tells_of_it(store, tmp_path):
    run, settings = run_to(tmp_path / "run", store, "relu", 3.0, training={"steps": 40})
    train(settings, open_source(store), run)
    record, results = metrics(run.path), run.results()["training"]
    assert results["target_l0"] == {
        "target": 3.0,
        "reached": results["last_40_steps"]["l0"],
        "weight": record[-1]["sparsity_weight"],
    }
    assert record[0]["sparsity_weight"] == 0.1
    assert len({m["sparsity_weight"] for m in record}) > 30


def test_a_target_that_no_weight_reaches_is_said(store, tmp_path, capsys):
    run, settings = run_to(tmp_path / "run", store, "relu", 11.5, training={"steps": 60})
    train(settings, open_source(store), run)
    said = capsys.readouterr().err
    assert "over the last 60 steps, and not sparsity.target_l0 (= 11.5)" in said
    assert "begin with a higher autoencoder.firing_rate" in said


def test_too_few_steps_are_said(store, tmp_path, capsys):
    run, settings = run_to(tmp_path / "run", store, "relu", 0.5, optimizer={"lr": 1e-4}, training={"steps": 20})
    train(settings, open_source(store), run)
    assert "Train for more steps, or with a higher optimizer.lr." in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_resumes_to_the_bit(kind, store, tmp_path):
    class Killed(BaseException):
        pass

    changes = {"training": {"precision": "bfloat16", "steps": 30, "checkpoint_every": 7}}
    unbroken, settings = run_to(tmp_path / "unbroken", store, kind, 3.0, **changes)
    train(settings, open_source(store), unbroken)
    run, _ = run_to(tmp_path / "run", store, kind, 3.0, **changes)
    for batches in (12, 9, 3):
        source, drawn = open_source(store), []

        def next_batch(ranks, source=source, drawn=drawn, batches=batches, whole=source.next_batch):
            drawn.append(1)
            if len(drawn) == batches:
                raise Killed
            return whole(ranks)

        source.next_batch = next_batch
        with pytest.raises(Killed):
            train(settings, source, run)
    train(settings, open_source(store), run)
    assert weights(run.path) == weights(unbroken.path)
    assert whole_state(run.path) == whole_state(unbroken.path)
    assert metrics(run.path) == metrics(unbroken.path)


def test_without_a_target_nothing_of_it_is_written(store, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.begin({})
    train(run_settings(training={"steps": 8}), open_source(store), run)
    assert "sparsity_weight" not in metrics(run.path)[-1]
    assert "target_l0" not in run.results()["training"]
    assert "controller" not in json.loads(load_tensors(run.checkpoint_file)[1]["state"])  # as older ones have it


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            (
                {"autoencoder": {"kind": kind, "d_sae": 12, "k": 3}},
                rf"sparsity.target_l0 \(= 3.0\) cannot be used with autoencoder.kind = '{kind}', whose L0 is "
                "autoencoder.k; give that instead",
            )
            for kind in ("topk", "batch_topk", "matryoshka")
        ),
        ({"sparsity": {"target_l0": 12}}, r"target_l0 \(= 12.0\) must be below autoencoder.d_sae \(= 12\)"),
        ({"sparsity": {"target_l0": 0}}, r"`sparsity.target_l0` \(= 0\): Input should be greater than 0"),
        ({"sparsity": {"weight": 0.0}}, "target_l0 needs a weight above 0"),
        ({"sparsity": {"warmup_steps": 4}}, r"warmup_steps \(= 4\) cannot be used with target_l0"),
    ],
)
def test_refused(changes, message):
    sparsity = {"warmup_steps": 0, "target_l0": 3.0} | changes.get("sparsity", {})
    with pytest.raises(SleaveError, match=message):
        run_settings(**changes | {"sparsity": sparsity})
