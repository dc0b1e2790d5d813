"""What a checkpoint holds, and what happens when it cannot be written or read."""

import errno
import json

import pytest
import torch
from toy_run import metrics, open_source, run_settings, weights, whole_state

from sleave.autoencoder.initialisation import initial_autoencoder
from sleave.base import files
from sleave.base.errors import SleaveError
from sleave.base.files import load_tensors
from sleave.training import loop
from sleave.training.checkpoint import Progress, read_checkpoint, write_checkpoint
from sleave.training.loop import train
from sleave.training.run import RunDirectory
from sleave.training.step import Stepper


def build(store, seed=0, **changes):
    settings = run_settings(**changes)
    source = open_source(store)
    sae = initial_autoencoder(settings.autoencoder, source.sample(20), torch.Generator().manual_seed(seed))
    return Stepper(sae, settings.optimizer, settings.training, settings.constraint.build(sae.d_in)), source


def steps(stepper, source, n):
    return [stepper.step(source.next_batch(), lr=0.01, sparsity_weight=0.1).loss for _ in range(n)]


def begun(path):
    run = RunDirectory(path)
    run.begin({"a": 1})
    return run


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("after", [1, 2, 3, 4, 5])  # of pairs chosen every 3 steps from 3 batches, a refresh every 2
def test_everything_comes_back(precision, after, store, tmp_path):
    stepper, source = build(store, training={"precision": precision})
    if precision == "float16":
        stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22, growth_interval=2, growth_factor=2.0)
    torch.manual_seed(11)
    steps(stepper, source, after)
    since = torch.arange(12) * 3
    write_checkpoint(tmp_path / "c", stepper, source, Progress(since, after, 8 * after))
    random = torch.rand(3)

    other, other_source = build(store, seed=1, training={"precision": precision})
    done = read_checkpoint(tmp_path / "c", other, other_source)
    assert (done.step, done.rows) == (after, 8 * after)
    assert torch.equal(done.since_fired, since)
    assert torch.equal(torch.rand(3), random)
    assert other.skipped == stepper.skipped
    assert other.scaler.state_dict() == stepper.scaler.state_dict()
    for a, b in zip(stepper.sae.parameters(), other.sae.parameters(), strict=True):
        assert torch.equal(a, b)
        moments, restored = stepper.optimizer.state[a], other.optimizer.state[b]
        assert moments.keys() == restored.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(moments[n], restored[n]) for n in moments)
    assert torch.equal(stepper.penalty.pairs.i, other.penalty.pairs.i)
    assert steps(stepper, source, 7) == steps(other, other_source, 7)
    assert stepper.penalty.figures() == other.penalty.figures()
    write_checkpoint(tmp_path / "a", stepper, source, done)
    write_checkpoint(tmp_path / "b", other, other_source, done)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_float16_case_above_does_skip_steps(store):
    stepper, source = build(store, training={"precision": "float16"})
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22, growth_interval=2, growth_factor=2.0)
    steps(stepper, source, 1)
    assert stepper.skipped == 1


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_checkpoint(keep, store, tmp_path):
    run = begun(tmp_path / "run")
    train(run_settings(training={"steps": 7}), open_source(store), run)
    content = run.checkpoint_file.read_bytes()
    run.checkpoint_file.write_bytes(content[:keep])
    with pytest.raises(SleaveError, match=r"checkpoint.safetensors` cannot be read .*truncated.* Delete it, and"):
        train(run_settings(training={"steps": 7}), open_source(store), run)
    run.checkpoint_file.unlink()  # as the message says
    train(run_settings(training={"steps": 7}), open_source(store), run)
    assert whole_state(run.path) == content
    assert [m["step"] for m in metrics(run.path)] == [*range(1, 8)]


def full_disk(tensors, path, metadata=None):
    path.write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_keeps_the_last_checkpoint(store, tmp_path, monkeypatch):
    unbroken, run = begun(tmp_path / "unbroken"), begun(tmp_path / "run")
    train(run_settings(), open_source(store), unbroken)

    def write(path, stepper, source, done):
        if done.step == 21:
            monkeypatch.setattr(files, "save_file", full_disk)
        write_checkpoint(path, stepper, source, done)

    with monkeypatch.context() as context:
        context.setattr(loop, "write_checkpoint", write)
        with pytest.raises(SleaveError, match=r"disk is full: .*checkpoint.safetensors.*run the same command again"):
            train(run_settings(), open_source(store), run)
    monkeypatch.undo()
    tensors, metadata = load_tensors(run.checkpoint_file)
    assert json.loads(metadata["state"])["step"] == 14
    assert all(torch.isfinite(t).all() for n, t in tensors.items() if n.startswith("sae."))
    assert not list(run.path.glob(".*"))  # no temporary file is left
    train(run_settings(), open_source(store), run)
    assert weights(run.path) == weights(unbroken.path)
    assert metrics(run.path) == metrics(unbroken.path)


def test_full_disk_while_writing_metrics(store, tmp_path, monkeypatch):
    run = begun(tmp_path / "run")

    class Full:
        """A file on a full disk: what is written stays in the buffer, and flushing it fails every time."""

        def write(self, text):
            self.lines = getattr(self, "lines", 0) + 1

        def flush(self):
            if self.lines == 10:
                raise OSError(errno.ENOSPC, "No space left on device")

        close = flush

    original = RunDirectory.open_metrics

    def open_metrics(self, step):
        log = original(self, step)
        log.close()
        log._file = Full()
        return log

    monkeypatch.setattr(RunDirectory, "open_metrics", open_metrics)
    with pytest.raises(SleaveError, match=r"disk is full: .*metrics.jsonl"):
        train(run_settings(), open_source(store), run)
    assert json.loads(load_tensors(run.checkpoint_file)[1]["state"])["step"] == 7


def test_activations_that_go_bad_leave_a_usable_checkpoint(store, tmp_path):
    unbroken, run = begun(tmp_path / "unbroken"), begun(tmp_path / "run")
    train(run_settings(), open_source(store), unbroken)
    source = open_source(store)
    healthy, drawn = source._train.rows, []

    def rows(ids):
        drawn.append(ids)
        x = healthy(ids)
        if len(drawn) == 18:  # the sample, and 17 batches
            x[3, 1] = float("nan")
        return x

    source._train.rows = rows
    with pytest.raises(SleaveError, match="NaN or infinite activations"):
        train(run_settings(), source, run)
    assert json.loads(load_tensors(run.checkpoint_file)[1]["state"])["step"] == 14
    train(run_settings(), open_source(store), run)  # the store has been mended
    assert weights(run.path) == weights(unbroken.path)
    assert metrics(run.path) == metrics(unbroken.path)


def test_loss_that_blows_up_leaves_a_usable_checkpoint(store, tmp_path, monkeypatch):
    unbroken, run = begun(tmp_path / "unbroken"), begun(tmp_path / "run")
    train(run_settings(), open_source(store), unbroken)
    with monkeypatch.context() as context:
        context.setattr(loop, "learning_rate", lambda settings, step, steps: 1e30 if step == 9 else 0.02)
        with pytest.raises(SleaveError, match=r"The loss is not finite|NaN or infinite values"):
            train(run_settings(), open_source(store), run)
    train(run_settings(), open_source(store), run)
    assert [m["step"] for m in metrics(run.path)] == [*range(1, 31)]


def test_same_seed_same_bytes(store, tmp_path):
    runs = [begun(tmp_path / name) for name in ("a", "b", "c")]
    for run, seed in zip(runs, (5, 5, 6), strict=True):
        train(run_settings(seed=seed), open_source(store, seed), run)
    a, b, c = (weights(run.path) for run in runs)
    assert a == b
    assert a != c
    assert whole_state(runs[0].path) == whole_state(runs[1].path)
    assert metrics(runs[0].path) == metrics(runs[1].path)
