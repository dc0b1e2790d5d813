"""Two processes with half of every batch each train what one process trains."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from torchrun import COMMAND, ENVIRONMENT, torchrun
from toy_run import make_recipe, metrics, open_source, run_settings

from sleave import jobs
from sleave.base.errors import SleaveError
from sleave.base.files import load_tensors
from sleave.base.ranks import Ranks
from sleave.training.loop import train
from sleave.training.run import RunDirectory

SHARED = Path(__file__).parents[1] / "shared"
STEPS = 12
KINDS = {
    "relu": {},
    "relu, batch norm": {"batch_norm": True},
    "jumprelu": {"kind": "jumprelu", "threshold": 0.1},
    "gated": {"kind": "gated"},
    "topk": {"kind": "topk", "k": 3},
    "batch_topk": {"kind": "batch_topk", "k": 3},
    "matryoshka": {"kind": "matryoshka", "k": 3, "levels": (0.25, 0.5, 1.0)},
}
CONSTRAINTS = {
    "none": {"kind": "none"},
    "full": {"kind": "full"},
    "full, pearson": {"kind": "full", "measure": "pearson"},
    "selective": {"kind": "selective", "top": 0.2},
    "selective, pearson, pooled": {"kind": "selective", "top": 0.2, "measure": "pearson", "window": 3, "refresh": 4},
    "informed": {"kind": "informed", "weight": 50.0, "refresh": 4, "window": 2, "top": 0.4},
    "mi": {"kind": "mi", "top": 0.3, "weight": 1.0, "warmup_steps": 0},
    "gradient": {"kind": "gradient", "top": 0.2, "weight": 1.0},
    "temporal": {"kind": "temporal", "top": 0.2, "weight": 1.0},
    "information": {"kind": "information", "top": 0.2, "weight": 1.0},
    "decoder": {"kind": "decoder", "weight": 1.0},
}


def changes(autoencoder, constraint, **training):
    return {
        "autoencoder": {"d_sae": 12, "firing_rate": 0.3, **autoencoder},
        "constraint": constraint,
        "optimizer": {"kind": "adamw", "lr": 0.002},
        "training": {"steps": STEPS, "precision": "float32", "dead_after_tokens": 16, **training},
    }


CASES = {
    **{f"{kind} and no constraint": changes(settings, CONSTRAINTS["none"]) for kind, settings in KINDS.items()},
    **{f"{name} on {kind}": changes(KINDS[kind], c) for kind in ("relu", "topk") for name, c in CONSTRAINTS.items()},
    "accumulation": changes(KINDS["topk"], CONSTRAINTS["none"], accumulation=2, gradient_checkpointing=True),
    "target L0": changes(KINDS["relu"], CONSTRAINTS["none"]) | {"sparsity": {"target_l0": 3.0, "warmup_steps": 0}},
}


@pytest.fixture(scope="module")
def shared(store, tmp_path_factory):
    """Every case, trained by two processes."""
    out = tmp_path_factory.mktemp("shared")
    (out / "cases.json").write_text(json.dumps(CASES))
    done = torchrun(2, SHARED / "train_shared.py", store, out, out / "cases.json")
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("name", CASES)
def test_two_halves_of_a_batch_are_one_batch(name, shared, store, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.begin({"a": 1})
    train(run_settings(**CASES[name]), open_source(store), run)
    alone, _ = load_tensors(run.checkpoint_file)
    together, _ = load_tensors(shared / name / "checkpoint.safetensors")
    assert together.keys() == alone.keys()
    for tensor, expected in alone.items():
        if tensor.startswith("sae."):
            torch.testing.assert_close(
                together[tensor], expected, atol=1e-6, rtol=0, msg=lambda m, t=tensor: f"{t}: {m}"
            )
        elif tensor.startswith(("penalty.", "optimizer.")):
            torch.testing.assert_close(together[tensor], expected, atol=1e-5, rtol=1e-4, equal_nan=True)
        else:
            assert together[tensor].equal(expected), tensor
    for line, expected in zip(metrics(shared / name), metrics(run.path), strict=True):
        assert line == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_one_process_goes_on_where_two_were_stopped(tmp_path):
    """By a signal, which torchrun hands on; a checkpoint belongs to no number of processes."""
    recipe, out = make_recipe(tmp_path, training={"steps": 4000, "checkpoint_every": 1000}), tmp_path / "run"
    command = [*COMMAND, "--nproc-per-node=2", "-m", "sleave", "train", str(recipe), "--out", str(out)]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        while not (out / "metrics.jsonl").is_file() or len(metrics(out)) < 20:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    stopped = int(re.search(r"Stopped at step (\d+) of 4000 and saved", told)[1])
    assert [m["step"] for m in metrics(out)] == [*range(1, stopped + 1)]
    (run,) = jobs.train(recipe, out)
    assert run.finished
    assert [m["step"] for m in metrics(out)] == [*range(1, 4001)]


def test_only_training_is_shared():
    done = torchrun(2, "-m", "sleave", "evaluate", "nowhere")
    assert done.returncode != 0
    assert "`torchrun` is for `sleave harvest` and `train`; run `sleave evaluate` by itself." in done.stderr


def test_a_batch_that_cannot_be_shared_out_is_refused():
    assert Ranks(1, 4).share(8) == slice(2, 4)
    with pytest.raises(SleaveError, match=r"A batch of 8 rows cannot be shared out evenly among 3 processes\. Change"):
        Ranks(1, 3).share(8)
