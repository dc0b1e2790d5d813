"""Steps with batch norm and dropout against the plain formula, and what of them a run leaves behind."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_run import open_source, run_settings

from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.base.errors import SleaveError
from sleave.interop.reading import load
from sleave.penalties.orthogonality import FullOrthogonality, SelectiveOrthogonality
from sleave.training import loop
from sleave.training.run import RunDirectory
from sleave.training.settings import OptimizerSettings, TrainingSettings
from sleave.training.step import Stepper

D_IN, D_SAE, ROWS = 5, 9, 16
BOTH = {"batch_norm": True, "dropout": 0.3}


def stepper(regularisation, penalty=None, optimizer=None, **training):
    g = torch.Generator().manual_seed(0)
    sae = ReLUAutoencoder(D_IN, D_SAE, **regularisation)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        p = getattr(sae, name)
        p.data = torch.randn(p.shape, generator=g) * 0.5
    sae.W_dec.data = torch.nn.functional.normalize(sae.W_dec.data, dim=1)
    training = {"precision": "float32", "device": "cpu"} | training
    return Stepper(sae, OptimizerSettings(**(optimizer or {})), TrainingSettings(**training), penalty)


def batch(seed):
    return 2 + torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(seed)) * torch.linspace(0.5, 3, D_IN)


def run(s, steps=8, seed=1):
    """The losses of some steps, each on another batch."""
    torch.manual_seed(seed)
    return [s.step(batch(100 + n), lr=0.01, sparsity_weight=0.05).loss for n in range(steps)]


def state(s):
    return {name: t.clone() for name, t in s.sae.state_dict().items()}


def assert_same_state(a, b, **tolerance):
    for name, t in a.items():
        torch.testing.assert_close(b[name], t, **(tolerance or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_updates_equal_a_plain_loop_with_torchs_batch_norm(kind):
    decay = {"weight_decay": 0.1} if kind == "adamw" else {}
    s = stepper({"batch_norm": True}, optimizer={"kind": kind, **decay}, decoder_gradient="plain")
    plain = {name: p.detach().clone().requires_grad_() for name, p in s.sae.named_parameters() if "_norm" not in name}
    norm = torch.nn.BatchNorm1d(D_IN)
    optimizers = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = optimizers[kind]([*plain.values(), *norm.parameters()], lr=0.01, **decay)
    for n in range(5):
        x = batch(n)
        s.step(x, lr=0.01, sparsity_weight=0.1)
        optimizer.zero_grad()
        acts = torch.relu(norm(x) @ plain["W_enc"] + plain["b_enc"])
        mse = ((acts @ plain["W_dec"] + plain["b_dec"] - x) ** 2).sum(1).mean()
        (mse + 0.1 * acts.sum(1).mean()).backward()
        optimizer.step()
        with torch.no_grad():
            plain["W_dec"] /= plain["W_dec"].norm(dim=1, keepdim=True)
    plain |= {"batch_norm.gamma": norm.weight, "batch_norm.beta": norm.bias}
    plain |= {"batch_norm.mean": norm.running_mean, "batch_norm.variance": norm.running_var}
    assert bool((norm.weight != 1).all())  # they were updated too
    assert_same_state(s.sae.state_dict(), plain, rtol=1e-4, atol=1e-5)


class Recorder(FullOrthogonality):
    """Keeps the codes it is called on."""

    def __call__(self, acts, W_dec=None, residual=None):
        self.acts = acts.detach()
        return super().__call__(acts, W_dec)


def test_only_the_decoder_reads_dropped_codes():
    penalty, share = Recorder(), 0.3
    s, x = stepper({"dropout": share}, penalty), batch(0)
    with torch.no_grad():
        acts, W_dec, b_dec = s.sae.encode(x), s.sae.W_dec.clone(), s.sae.b_dec.clone()
    torch.manual_seed(4)
    result = s.step(x, lr=0.01, sparsity_weight=0.1)
    torch.manual_seed(4)
    kept = torch.nn.functional.dropout(torch.ones_like(acts), share)
    assert kept.unique().tolist() == pytest.approx([0, 1 / (1 - share)])
    error = (acts * kept) @ W_dec + b_dec - x
    assert result.mse == pytest.approx(float(error.square().sum(dim=1).mean()), rel=1e-5)
    assert result.l1 == pytest.approx(float(acts.sum(dim=1).mean()), rel=1e-5)
    assert torch.equal(result.fired, (acts > 0).float().sum(dim=0))
    torch.testing.assert_close(result.mean_act, acts.mean(dim=0))
    torch.testing.assert_close(penalty.acts, acts)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("regularisation", [{"batch_norm": True}, {"dropout": 0.3}, BOTH])
def test_gradient_checkpointing_changes_nothing(regularisation, precision):
    kept, again = (
        stepper(regularisation, SelectiveOrthogonality(top=0.2), precision=precision, gradient_checkpointing=c)
        for c in (False, True)
    )
    assert run(kept) == run(again)
    assert_same_state(state(kept), state(again))  # running statistics too: they moved once a step
    if "dropout" in regularisation:
        assert run(stepper(regularisation), seed=2) != run(stepper(regularisation), seed=1)  # the mask does matter


@pytest.mark.parametrize("accumulation", [1, 4])
def test_running_statistics_are_of_whole_batches(accumulation):
    s, theirs = stepper(BOTH, accumulation=accumulation), torch.nn.BatchNorm1d(D_IN)
    run(s, steps=3)
    for n in range(3):
        theirs(batch(100 + n))
    torch.testing.assert_close(s.sae.batch_norm.mean, theirs.running_mean)
    torch.testing.assert_close(s.sae.batch_norm.variance, theirs.running_var)


def test_each_part_is_normalised_by_itself():
    s, x = stepper({"batch_norm": True}, accumulation=2), batch(0)
    with torch.no_grad():
        errors = [(s.sae(part) - part).square().sum(dim=1).mean() for part in x.chunk(2)]
    assert s.step(x, lr=0.01, sparsity_weight=0).mse == pytest.approx(float(sum(errors)) / 2, rel=1e-5)


def test_a_part_of_one_row_is_refused():
    s = stepper(BOTH, accumulation=ROWS)
    with pytest.raises(SleaveError, match=r"needs the statistics of at least 2 rows in training, and was given 1\."):
        s.step(batch(0), lr=0.01, sparsity_weight=0)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_loss_that_is_not_finite_changes_nothing(accumulation):
    s = stepper(BOTH, accumulation=accumulation)
    run(s, steps=2)
    before, x = state(s), batch(0)
    x[-1, 2] = float("nan")  # in the last part
    with pytest.raises(SleaveError, match="Nothing was updated"):
        s.step(x, lr=0.01, sparsity_weight=0.1)
    assert_same_state(before, state(s))


def test_what_a_run_saves_does_what_it_trained(store, tmp_path, monkeypatch):
    built = []
    build = loop._build
    monkeypatch.setattr(loop, "_build", lambda *given: built.append(build(*given)) or built[-1])
    run, source = RunDirectory(tmp_path / "run"), open_source(store)
    run.begin({})
    loop.train(run_settings(autoencoder=BOTH), source, run)
    sae, saved = built[0].sae.eval(), load(run.path)
    raw = torch.cat([block.float() for block in source.heldout(8)])
    with torch.no_grad():
        expected = source.scaling.invert(sae(source.scaling.apply(raw)))
    torch.testing.assert_close(saved(raw), expected, rtol=1e-4, atol=1e-4)


COMPILED = """
import sys
import torch
sys.path[:0] = [{shared!r}, {here!r}]
from test_batch_norm_and_dropout import BOTH, assert_same_state, run, state, stepper

eager, compiled = stepper({{"batch_norm": True}}), stepper({{"batch_norm": True}}, compile=True)
torch.testing.assert_close(torch.tensor(run(compiled)), torch.tensor(run(eager)))
assert_same_state(state(eager), state(compiled), rtol=1e-4, atol=1e-5)
# Compiled code draws other masks from the same seed, but the same ones when it computes again.
kept, again = (stepper(BOTH, compile=True, gradient_checkpointing=c) for c in (False, True))
assert run(kept) == run(again)
assert_same_state(state(kept), state(again))
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_compiled():
    # In a process of its own: the shape checks of the tests cannot be compiled.
    here = Path(__file__).parent
    script = COMPILED.format(here=str(here), shared=str(here.parent / "shared"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
