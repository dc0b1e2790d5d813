"""Several processes, with shares of every batch or parts of the dictionary, train what one process trains."""

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
    **{f"{name} on relu": changes(KINDS["relu"], constraint) for name, constraint in CONSTRAINTS.items()},
    **{
        f"{name} on topk": changes(KINDS["topk"], CONSTRAINTS[name]) for name in ("full", "selective", "informed", "mi")
    },
    "accumulation": changes(KINDS["batch_topk"], CONSTRAINTS["selective"], accumulation=2),
    "checkpointing": changes(
        KINDS["batch_topk"] | {"batch_norm": True}, CONSTRAINTS["none"], gradient_checkpointing=True
    ),
    "AuxK": changes(KINDS["topk"], CONSTRAINTS["none"], dead_after_tokens=1),
    "target L0": changes(KINDS["relu"], CONSTRAINTS["none"]) | {"sparsity": {"target_l0": 3.0, "warmup_steps": 0}},
}
FEW = ("relu and no constraint", "selective on relu", "informed on topk", "batch_topk and no constraint", "AuxK")


def of_parts(case):
    """Whether a dictionary in parts can be trained so."""
    return case["constraint"]["kind"] not in ("gradient", "decoder") and case["autoencoder"].get("kind") != "matryoshka"


LAYOUTS = {  # processes, how many of them have a part of the dictionary each, cases
    "2 shares of the batch": (2, 1, CASES),
    "2 parts of the dictionary": (2, 2, {name: case for name, case in CASES.items() if of_parts(case)}),
    "2 shares, 2 parts": (4, 2, {name: CASES[name] for name in FEW}),
    "4 parts": (4, 4, {name: CASES[name] for name in FEW}),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request, store, tmp_path_factory):
    """Its cases, trained by several processes."""
    processes, shards, cases = LAYOUTS[request.param]
    out = tmp_path_factory.mktemp("shared")
    (out / "cases.json").write_text(json.dumps(cases))
    done = torchrun(processes, SHARED / "train_shared.py", store, out, out / "cases.json", shards)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def alone(store, tmp_path_factory):
    """Every case, trained by one process."""
    out = tmp_path_factory.mktemp("alone")
    for name, case in CASES.items():
        run = RunDirectory(out / name)
        run.begin({"a": 1})
        train(run_settings(**case), open_source(store), run)
    return out


def chosen_pairs(state):
    return set(zip(state["penalty.i"].tolist(), state["penalty.j"].tolist(), strict=True))


def test_several_processes_train_what_one_does(layout, alone):
    for name in json.loads((layout / "cases.json").read_text()):
        together, _ = load_tensors(layout / name / "checkpoint.safetensors")
        expected, _ = load_tensors(alone / name / "checkpoint.safetensors")
        assert together.keys() == expected.keys(), name
        for tensor, value in expected.items():
            at = f"{name}, {tensor}: "
            if tensor in ("penalty.i", "penalty.j"):  # of equal scores, rounding decides which pair is first
                pairs = (chosen_pairs(state) for state in (together, expected))
                assert next(pairs) == next(pairs), at
            elif tensor.startswith("sae."):
                torch.testing.assert_close(together[tensor], value, atol=1e-6, rtol=0, msg=lambda m, at=at: at + m)
            elif tensor.startswith(("penalty.", "optimizer.")):
                close = {"atol": 1e-5, "rtol": 1e-4, "equal_nan": True}
                torch.testing.assert_close(together[tensor], value, msg=lambda m, at=at: at + m, **close)
            else:
                assert together[tensor].equal(value), at
        for line, other in zip(metrics(layout / name), metrics(alone / name), strict=True):
            assert line == pytest.approx(other, rel=1e-4, abs=1e-6), name
        saved = [load_tensors(out / name / "sae/sae_weights.safetensors")[0] for out in (layout, alone)]
        torch.testing.assert_close(*saved, atol=1e-5, rtol=1e-5)


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
    assert Ranks(1, 4).share(8).tolist() == [2, 3]
    assert Ranks(1, 2).share(8, parts=2).tolist() == [2, 3, 6, 7]
    with pytest.raises(SleaveError, match=r"A batch of 8 rows cannot be shared out evenly among 3 processes\. Change"):
        Ranks(1, 3).share(8)
    with pytest.raises(SleaveError, match=r"among 2 processes in 3 parts \(training\.accumulation\)"):
        Ranks(1, 2).share(8, parts=3)
