"""One step against the plain formula, autograd and torch.optim."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.base.errors import SleaveError
from sleave.base.settings import parse
from sleave.penalties.orthogonality import FullOrthogonality, SelectiveOrthogonality
from sleave.training.settings import OptimizerSettings, RunSettings, TrainingSettings
from sleave.training.step import MAX_SKIPPED, Stepper

D_IN, D_SAE, ROWS = 5, 9, 16


def random_sae(seed=0, d_in=D_IN, d_sae=D_SAE):
    g = torch.Generator().manual_seed(seed)
    sae = ReLUAutoencoder(d_in, d_sae)
    for name, p in sae.named_parameters():
        p.data = torch.randn(p.shape, generator=g) * (0.5 if name.startswith("W") else 0.1)
    sae.W_dec.data = torch.nn.functional.normalize(sae.W_dec.data, dim=1)
    return sae


def batch(seed, rows=ROWS, d_in=D_IN):
    return torch.randn(rows, d_in, generator=torch.Generator().manual_seed(seed))


def stepper(sae=None, penalty=None, optimizer=None, **training):
    training = {"precision": "float32", "device": "cpu"} | training
    return Stepper(sae or random_sae(), OptimizerSettings(**(optimizer or {})), TrainingSettings(**training), penalty)


def run(s, steps=20, lr=0.01):
    """The losses of some steps, each on another batch."""
    return [s.step(batch(100 + n), lr=lr, sparsity_weight=0.05).loss for n in range(steps)]


def copies(sae):
    return {name: p.detach().clone() for name, p in sae.named_parameters()}


def assert_same_weights(a, b, **tolerance):
    tolerance = tolerance or {"rtol": 0, "atol": 0}
    for name, p in a.named_parameters():
        torch.testing.assert_close(p, dict(b.named_parameters())[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def test_loss_terms_by_hand():
    sae = ReLUAutoencoder(3, 2)
    sae.W_enc.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    sae.b_enc.data = torch.tensor([0.0, -1.0])
    sae.W_dec.data = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    sae.b_dec.data = torch.tensor([0.0, 0.5, 0.0])
    x = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
    # codes [[1, 1], [0, 1]]; x_hat [[1, .5, 1], [0, .5, 1]]; errors 1.25 and 0.25; C = 1 / sqrt(2)
    result = stepper(sae, FullOrthogonality(weight=0.1)).step(x, lr=0.1, sparsity_weight=0.04, constraint_scale=0.5)
    assert result.mse == pytest.approx(0.75)
    assert result.l1 == pytest.approx(1.5)
    assert result.constraint == pytest.approx(0.025)
    assert result.loss == pytest.approx(0.75 + 0.06 + 0.025)
    assert result.variance == pytest.approx(0.75)
    assert result.rows == 2
    assert result.fired.tolist() == [1, 2]
    assert result.mean_act.tolist() == [0.5, 1]
    assert result.updated


def plain_loss(w, x, sparsity, constraint):
    acts = torch.relu(x @ w["W_enc"] + w["b_enc"])
    unit = acts / acts.norm(dim=0).clamp_min(1e-12)
    C = (unit.T @ unit).triu(diagonal=1)
    mse = ((acts @ w["W_dec"] + w["b_dec"] - x) ** 2).sum(1).mean()
    return mse + sparsity * acts.sum(1).mean() + constraint * C.square().sum()


def plain_gradients(sae, x, sparsity, constraint):
    w = {name: p.requires_grad_() for name, p in copies(sae).items()}
    return dict(zip(w, torch.autograd.grad(plain_loss(w, x, sparsity, constraint), list(w.values())), strict=True))


@pytest.mark.parametrize("constraint", [0.0, 0.7])
def test_gradients_equal_autograd_on_the_formula(constraint):
    sae, x = random_sae(), batch(1)
    truth = plain_gradients(sae, x, 0.3, constraint)
    penalty = FullOrthogonality(constraint) if constraint else None
    stepper(sae, penalty, decoder_gradient="plain").step(x, lr=0.01, sparsity_weight=0.3)
    assert all(truth[name].abs().max() > 0 for name in truth)
    for name, p in sae.named_parameters():
        torch.testing.assert_close(p.grad, truth[name], msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("kind", ["projected", "plain"])
def test_projection_removes_what_points_along_the_row(kind):
    sae, x = random_sae(), batch(1)
    truth, rows = plain_gradients(sae, x, 0.3, 0)["W_dec"], sae.W_dec.detach().clone()
    stepper(sae, decoder_gradient=kind, fused=False).step(x, lr=0.01, sparsity_weight=0.3)
    along = (sae.W_dec.grad * rows).sum(1)
    if kind == "plain":
        assert along.abs().max() > 0.1
        torch.testing.assert_close(sae.W_dec.grad, truth)
    else:
        torch.testing.assert_close(along, torch.zeros(D_SAE), atol=1e-5, rtol=0)
        torch.testing.assert_close(sae.W_dec.grad, truth - (truth * rows).sum(1, keepdim=True) * rows)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["projected", "plain"])
def test_decoder_rows_have_norm_one_after_every_update(precision, kind):
    s = stepper(precision=precision, decoder_gradient=kind)
    for n in range(5):
        before = s.sae.W_dec.detach().clone()
        if s.step(batch(n), lr=0.05, sparsity_weight=0.1).updated:
            assert not torch.equal(before, s.sae.W_dec)
        torch.testing.assert_close(s.sae.W_dec.norm(dim=1), torch.ones(D_SAE))


@pytest.mark.parametrize("kind", ["adam", "adamw"])
@pytest.mark.parametrize("decoder_gradient", ["projected", "plain"])
def test_updates_equal_a_plain_loop_with_torch_optim(kind, decoder_gradient):
    decay = {"weight_decay": 0.1} if kind == "adamw" else {}
    sae = random_sae()
    plain = {name: p.requires_grad_() for name, p in copies(sae).items()}
    s = stepper(sae, optimizer={"kind": kind, "betas": (0.8, 0.95), **decay}, decoder_gradient=decoder_gradient)
    optimizers = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    optimizer = optimizers[kind](list(plain.values()), betas=(0.8, 0.95), fused=False, **decay)
    for n, lr in enumerate([0.01, 0.02, 0.005, 0.03, 0.01]):
        x = batch(n)
        s.step(x, lr=lr, sparsity_weight=0.1)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        plain_loss(plain, x, 0.1, 0).backward()
        with torch.no_grad():
            rows = plain["W_dec"]
            if decoder_gradient == "projected":
                rows.grad -= (rows.grad * rows).sum(1, keepdim=True) * rows
            optimizer.step()
            rows /= rows.norm(dim=1, keepdim=True)
    for name, p in sae.named_parameters():
        torch.testing.assert_close(p, plain[name], rtol=1e-4, atol=1e-5)


def test_accumulation_equals_one_batch():
    whole, parts = stepper(), stepper(accumulation=4)
    for n in range(5):
        x = batch(n)
        a, b = (s.step(x, lr=0.01, sparsity_weight=0.1) for s in (whole, parts))
        for name in ("mse", "l1", "loss", "variance"):
            assert getattr(b, name) == pytest.approx(getattr(a, name), rel=1e-5)
        assert b.rows == a.rows
        assert torch.equal(a.fired, b.fired)
        torch.testing.assert_close(a.mean_act, b.mean_act)
        for p, q in zip(whole.sae.parameters(), parts.sae.parameters(), strict=True):
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-4, atol=1e-5)  # Adam alone would hide a factor
    assert_same_weights(whole.sae, parts.sae, rtol=1e-5, atol=1e-5)


def test_accumulation_must_divide_the_batch():
    with pytest.raises(SleaveError, match=r"accumulation` \(= 3\) must divide the batch of 16 rows"):
        stepper(accumulation=3).step(batch(0), lr=0.01, sparsity_weight=0)


@pytest.mark.parametrize("make", [lambda: None, lambda: SelectiveOrthogonality(top=0.2, refresh=2)])
def test_gradient_checkpointing_changes_nothing(make):
    kept = stepper(penalty=make(), fused=False)
    again = stepper(penalty=make(), fused=False, gradient_checkpointing=True)
    assert run(kept) == run(again)
    assert_same_weights(kept.sae, again.sae)


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_low_precision_stays_near_float32(precision, tolerance):
    exact, low = stepper(), stepper(precision=precision)
    if precision == "float16":  # so that no step is skipped, which would leave the two a step apart
        low.scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_factor=2.0)
    curve, low_curve = run(exact), run(low)
    assert curve[-1] < 0.9 * curve[0]
    assert low_curve == pytest.approx(curve, rel=tolerance)
    assert low_curve != curve  # something was computed in it
    assert all(p.dtype == torch.float32 for p in low.sae.parameters())
    assert_same_weights(exact.sae, low.sae, rtol=0, atol=tolerance)


def test_float16_doubles_its_loss_scale():
    assert stepper(precision="float16").scaler.get_growth_factor() == 2.0
    assert not stepper(precision="bfloat16").scaler.is_enabled()


def test_float16_overflow_skips_the_update_and_halves_the_scale():
    s = stepper(precision="float16")
    s.step(batch(0), lr=0.01, sparsity_weight=0.1)
    s.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_factor=2.0)
    before = copies(s.sae)
    moments = {n: t.clone() for n, t in s.optimizer.state[s.sae.W_enc].items()}
    result = s.step(batch(1), lr=0.01, sparsity_weight=0.1)
    assert not result.updated
    assert s.scaler.get_scale() == 2.0**39
    for name, p in s.sae.named_parameters():  # decoder rows are only scaled to norm one again
        torch.testing.assert_close(p, before[name], rtol=1e-6, atol=1e-7)
    for name, t in s.optimizer.state[s.sae.W_enc].items():
        assert torch.equal(t, moments[name]), name


def test_float16_that_always_overflows_is_an_error():
    s = stepper(precision="float16")
    s.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, growth_factor=2.0)
    for _ in range(MAX_SKIPPED):
        assert not s.step(batch(0), lr=0.01, sparsity_weight=0.1).updated
    with pytest.raises(SleaveError, match=rf"overflowed {MAX_SKIPPED + 1} times in a row.*bfloat16"):
        s.step(batch(0), lr=0.01, sparsity_weight=0.1)


def test_a_good_step_ends_the_row_of_skipped_ones():
    s = stepper(precision="float16")
    s.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_factor=2.0)
    updated = [s.step(batch(0), lr=0.01, sparsity_weight=0.1).updated for _ in range(12)]
    assert not updated[0]
    assert updated[-1]
    assert s.skipped == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_loss_that_is_not_finite_changes_nothing(bad, accumulation):
    s = stepper(accumulation=accumulation)
    s.step(batch(0), lr=0.01, sparsity_weight=0.1)
    before = copies(s.sae)
    moments = {n: t.clone() for n, t in s.optimizer.state[s.sae.W_enc].items()}
    x = batch(1)
    x[-1, 2] = bad  # in the last part
    with pytest.raises(SleaveError, match=r"loss is not finite \(reconstruction (nan|inf).*Nothing was updated"):
        s.step(x, lr=0.01, sparsity_weight=0.1)
    assert all(torch.equal(p, before[name]) for name, p in s.sae.named_parameters())
    assert all(torch.equal(t, moments[n]) for n, t in s.optimizer.state[s.sae.W_enc].items())
    s.step(batch(1), lr=0.01, sparsity_weight=0.1)  # and it can go on


COMPILED = """
import sys
import torch
sys.path.insert(0, {here!r})
from test_step import assert_same_weights, run, stepper

eager, compiled = stepper(), stepper(compile=True)
torch.testing.assert_close(torch.tensor(run(compiled)), torch.tensor(run(eager)))
assert_same_weights(eager.sae, compiled.sae, rtol=1e-4, atol=1e-5)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_compiled_equals_eager():
    # In a process of its own: the shape checks of the tests cannot be compiled.
    script = COMPILED.format(here=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_gradients_are_clipped_to_a_norm():
    """Over all weights together: their directions stay."""
    plain, clipped = random_sae(), random_sae()
    clipped.load_state_dict(plain.state_dict())
    for sae, norm in ((plain, 0.0), (clipped, 0.01)):
        s = Stepper(sae, OptimizerSettings(), TrainingSettings(precision="float32", fused=False), None, norm)
        s.step(batch(0), lr=0.0, sparsity_weight=0.1)
    norms = [torch.cat([p.grad.flatten() for p in sae.parameters()]).norm() for sae in (plain, clipped)]
    assert norms[0] > 1
    assert float(norms[1]) == pytest.approx(0.01, rel=1e-3)
    torch.testing.assert_close(clipped.W_enc.grad / norms[1], plain.W_enc.grad / norms[0])


@pytest.mark.parametrize(
    ("kind", "given", "norm"), [("relu", "auto", 0), ("topk", "auto", 1), ("topk", 0, 0), ("relu", 2.5, 2.5)]
)
def test_which_gradients_are_clipped(kind, given, norm):
    values = {"autoencoder": {"kind": kind, "d_sae": 40}, "optimizer": {"clip_norm": given}}
    assert parse(RunSettings, values, where="here").clip_norm == norm
