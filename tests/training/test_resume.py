"""A run that was stopped, at any moment, ends as if it had not been."""

import json
import signal
import threading

import pytest
from toy_run import metrics, open_source, run_settings, weights, whole_state

from sleave.base.files import load_tensors
from sleave.training.interruption import Interrupted, stop_on_signal
from sleave.training.loop import train
from sleave.training.run import RunDirectory

STEPS = 30


class Killed(BaseException):
    """Stands for a kill: nothing catches it, nothing is saved because of it."""


class Fragile:
    """A source at whose n-th batch something happens."""

    def __init__(self, source, at, happen):
        self._source, self._left, self._happen = source, at, happen

    def __getattr__(self, name):
        return getattr(self._source, name)

    def next_batch(self, *share):
        self._left -= 1
        if self._left == 0:
            self._happen()
        return self._source.next_batch(*share)


def kill():
    raise Killed


def begun(path):
    run = RunDirectory(path)
    run.begin({"a": 1})
    return run


def assert_same(run, unbroken):
    assert weights(run) == weights(unbroken)
    assert whole_state(run) == whole_state(unbroken)
    assert metrics(run) == metrics(unbroken)
    assert not list(run.rglob(".*"))


SETTINGS = {
    "float32": {"training": {"precision": "float32", "steps": STEPS}},
    "float16": {"training": {"precision": "float16", "steps": STEPS}},
    "batch norm and dropout": {
        "autoencoder": {"batch_norm": True, "dropout": 0.3},
        "training": {"precision": "bfloat16", "steps": STEPS, "accumulation": 2, "gradient_checkpointing": True},
    },
}


@pytest.fixture(scope="module", params=SETTINGS)
def settings(request):
    return run_settings(**SETTINGS[request.param])


@pytest.fixture(scope="module")
def unbroken(settings, store, tmp_path_factory):
    run = begun(tmp_path_factory.mktemp("unbroken") / "run")
    train(settings, open_source(store), run)
    assert [m["step"] for m in metrics(run.path)] == [*range(1, STEPS + 1)]
    assert {"dead", "constraint_overlap"} <= metrics(run.path)[-1].keys()
    return run.path


@pytest.mark.parametrize("step", range(1, STEPS))
def test_asked_to_stop_at_every_step(step, settings, store, unbroken, tmp_path):
    run = begun(tmp_path / "run")
    source = Fragile(open_source(store), step, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Interrupted, match=rf"Stopped at step {step} of {STEPS} and saved") as stopped:
        train(settings, source, run)
    assert stopped.value.signal_number == signal.SIGTERM
    assert len(metrics(run.path)) == step
    assert json.loads(load_tensors(run.checkpoint_file)[1]["state"])["step"] == step
    assert not run.finished
    train(settings, open_source(store), run)
    assert run.finished
    assert_same(run.path, unbroken)


@pytest.mark.parametrize("step", [1, 7, 8, 9, 15, 30])
def test_killed_between_checkpoints(step, settings, store, unbroken, tmp_path):
    run = begun(tmp_path / "run")
    with pytest.raises(Killed):
        train(settings, Fragile(open_source(store), step, kill), run)
    assert len(metrics(run.path)) == step - 1
    train(settings, open_source(store), run)
    assert_same(run.path, unbroken)


def test_killed_again_and_again(settings, store, unbroken, tmp_path):
    run = begun(tmp_path / "run")
    for batches in (9, 3, 8, 1, 12, 2):  # some of them before the first checkpoint after the last kill
        with pytest.raises(Killed):
            train(settings, Fragile(open_source(store), batches, kill), run)
    train(settings, open_source(store), run)
    assert_same(run.path, unbroken)


def test_asked_to_stop_in_the_last_step(settings, store, unbroken, tmp_path):
    run = begun(tmp_path / "run")
    train(settings, Fragile(open_source(store), STEPS, lambda: signal.raise_signal(signal.SIGINT)), run)
    assert_same(run.path, unbroken)


def test_line_cut_short_by_a_kill(settings, store, unbroken, tmp_path):
    run = begun(tmp_path / "run")
    with pytest.raises(Killed):
        train(settings, Fragile(open_source(store), 12, kill), run)
    text = run.metrics_file.read_text()
    run.metrics_file.write_text(text[:-30])
    assert [m["step"] for m in run.metrics()] == [*range(1, 11)]
    train(settings, open_source(store), run)
    assert_same(run.path, unbroken)


def test_finished_but_killed_before_the_results(settings, store, unbroken, tmp_path):
    run = begun(tmp_path / "run")
    train(settings, open_source(store), run)
    run.results_file.unlink()
    (run.sae / "cfg.json").unlink()
    assert not run.finished
    train(settings, open_source(store), run)
    assert run.results()["training"]["steps"] == STEPS
    assert_same(run.path, unbroken)


def test_second_signal_acts_as_it_always_does():
    began = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background begins with it ignored
    former = signal.getsignal(signal.SIGINT)
    with stop_on_signal() as request:
        assert request.signal_number is None
        signal.raise_signal(signal.SIGINT)
        assert request.signal_number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is former
    signal.signal(signal.SIGINT, began)


def test_other_threads_are_left_alone(settings, store, unbroken, tmp_path):
    run = begun(tmp_path / "run")
    thread = threading.Thread(target=train, args=(settings, open_source(store), run))
    thread.start()
    thread.join()
    assert_same(run.path, unbroken)


def test_another_precision_is_said(store, tmp_path, capsys):
    run = begun(tmp_path / "run")
    one, other = (run_settings(training={"precision": p, "steps": 8}) for p in ("float32", "bfloat16"))
    with pytest.raises(Interrupted):
        train(one, Fragile(open_source(store), 5, lambda: signal.raise_signal(signal.SIGTERM)), run)
    assert "was trained in" not in capsys.readouterr().err
    train(other, open_source(store), run)
    assert "was trained in float32 so far and goes on in bfloat16" in capsys.readouterr().err
