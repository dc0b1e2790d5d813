"""The command itself, killed and stopped at moments it does not choose."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from toy_run import make_recipe, metrics, weights

from sleave.base.files import load_tensors

pytestmark = pytest.mark.slow

STEPS = 300
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
TEMPORARY = re.compile(r"\.checkpoint\.safetensors\..*\.tmp")


def start(recipe, out, *options, program=("-m", "sleave")):
    command = [sys.executable, *program, "train", str(recipe), "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def finish(process, status=0):
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, out + err
    return err


def lines(out):
    path = out / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def wait_for(process, happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def checkpoint_step(out):
    return json.loads(load_tensors(out / "checkpoint.safetensors")[1]["state"])["step"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return make_recipe(
        tmp_path_factory.mktemp("kill"),
        training={"steps": STEPS, "checkpoint_every": 1},
        autoencoder={"batch_norm": True, "dropout": 0.1},
    )


@pytest.fixture(scope="module")
def unbroken(recipe):
    out = recipe.parent / "unbroken"
    finish(start(recipe, out))
    assert [m["step"] for m in metrics(out)] == [*range(1, STEPS + 1)]
    return out


def assert_same(out, unbroken):
    assert weights(out) == weights(unbroken)
    assert metrics(out) == metrics(unbroken)
    assert not list(out.rglob(".*"))


def test_killed_at_random_moments(recipe, unbroken, tmp_path):
    out, draw = tmp_path / "run", random.Random(0)
    kills = 0
    for target in (1, 30, 90, 91, 180, 250):
        process = start(recipe, out)
        wait_for(process, lambda target=target: lines(out) >= target)
        time.sleep(draw.uniform(0, 0.01))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 4
    assert not (out / "results.json").exists()
    finish(start(recipe, out))
    assert_same(out, unbroken)


def test_killed_while_writing_a_checkpoint(recipe, unbroken, tmp_path):
    out = tmp_path / "run"
    caught = 0
    for _ in range(8):
        process = start(recipe, out)
        before = lines(out)
        wait_for(process, lambda before=before: lines(out) > before + 20)
        wait_for(process, lambda: any(map(TEMPORARY.fullmatch, os.listdir(out))))
        process.kill()
        process.communicate()
        assert checkpoint_step(out) >= before  # whole, whatever happened
        caught += any(map(TEMPORARY.fullmatch, os.listdir(out)))
        if caught == 2:
            break
    assert caught  # at least one kill did come while the file was half there
    finish(start(recipe, out))
    assert_same(out, unbroken)


# Kills itself at the n-th atomic write, with the temporary file half written.
SUICIDE = """
import os, signal, sys
from sleave.base import files
from sleave.cli import main

left = {write}
class Path(type(files.Path())):
    def replace(self, target):
        global left
        left -= 1
        if left == 0:
            os.truncate(self, self.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        super().replace(target)
files.Path = Path
sys.exit(main())
"""


@pytest.fixture(scope="module")
def six_steps(recipe):
    finish(start(recipe, recipe.parent / "six", *SIX_STEPS))
    return recipe.parent / "six"


SIX_STEPS = ("--training.steps", "6", "--training.checkpoint_every", "3")


# The writes: 1 config.toml, 2 environment.json, 3 metrics.jsonl, 4 and 5 two checkpoints, 6 scaling, 7 and 8 the
# autoencoder, 9 results.json.
@pytest.mark.parametrize("write", range(1, 10))
def test_killed_in_each_write(write, recipe, six_steps, tmp_path):
    out = tmp_path / "run"
    program = ("-c", SUICIDE.format(write=write))
    finish(start(recipe, out, *SIX_STEPS, program=program), -signal.SIGKILL)
    assert len(list(out.rglob(".*.tmp"))) == 1
    finish(start(recipe, out, *SIX_STEPS))
    assert_same(out, six_steps)
    assert {p.name for p in out.rglob("*")} == {p.name for p in six_steps.rglob("*")}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop(number, status, unbroken, recipe, tmp_path):
    out = tmp_path / "run"
    every = ("--training.checkpoint_every", "1000")
    process = start(recipe, out, *every)
    wait_for(process, lambda: lines(out) >= 20)
    process.send_signal(number)
    said = finish(process, status)
    step = lines(out)
    assert f"Stopped at step {step} of {STEPS} and saved. The same command goes on from there." in said
    assert "Traceback" not in said
    assert checkpoint_step(out) == step >= 20
    said = finish(start(recipe, out, *every))
    assert f"Going on at step {step} of {STEPS}" in said
    assert_same(out, unbroken)


def test_finished_run_is_left_as_it_is(unbroken, recipe):
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in unbroken.rglob("*") if p.is_file()}
    assert "is finished already" in finish(start(recipe, unbroken))
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in unbroken.rglob("*") if p.is_file()} == before


def test_run_of_other_settings(unbroken, recipe):
    said = finish(start(recipe, unbroken, "--optimizer.lr", "0.5"), 2)
    assert "`optimizer.lr`: there 0.02, now 0.5" in said
    assert "Traceback" not in said


def test_folder_of_something_else(recipe, tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    said = finish(start(recipe, tmp_path), 2)
    assert f"`{tmp_path}` is not empty and not a run" in said
    assert "Traceback" not in said
