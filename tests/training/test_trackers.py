"""Metrics go where the settings say, besides metrics.jsonl."""

import sys

import pytest
from toy_run import make_store, metrics, open_source, run_settings

from sleave.base.errors import SleaveError
from sleave.training.loop import train
from sleave.training.run import RunDirectory


def begun(path, settings):
    run = RunDirectory(path)
    run.begin(settings.model_dump(mode="json", exclude_none=True))
    return run


@pytest.mark.slow  # importing tensorboard takes seconds
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_every_step(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = run_settings(training={"steps": 6, "precision": "float32", "trackers": ["tensorboard"]})
    run = begun(tmp_path / "run", settings)
    train(settings, open_source(make_store(tmp_path / "store")), run)
    events = accumulator.EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    written = [(e.step, e.value) for e in events.Scalars("mse")]
    assert written == [(m["step"], pytest.approx(m["mse"])) for m in metrics(run.path)]


@pytest.mark.parametrize(("tracker", "module"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")])
def test_a_tracker_that_is_not_installed_is_named(tracker, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    settings = run_settings(training={"trackers": [tracker]})
    run = begun(tmp_path / "run", settings)
    with pytest.raises(SleaveError, match=f"pip install 'sleave\\[{tracker}\\]'"):
        train(settings, open_source(make_store(tmp_path / "store")), run)
