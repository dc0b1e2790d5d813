"""sleave's own passes against plain torch: on random shapes, over many steps, and in lower precision."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sleave.autoencoder.batch_topk import BatchTopKAutoencoder
from sleave.autoencoder.matryoshka import MatryoshkaAutoencoder
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.autoencoder.topk import TopKAutoencoder
from sleave.base.errors import SleaveError
from sleave.codes.codes import Codes
from sleave.penalties.informed import InformedOrthogonality
from sleave.penalties.orthogonality import FullOrthogonality, SelectiveOrthogonality
from sleave.training.forward import reference
from sleave.training.fused import passes
from sleave.training.settings import OptimizerSettings, TrainingSettings
from sleave.training.step import Stepper

KINDS = {
    "relu": lambda d_in, d_sae: ReLUAutoencoder(d_in, d_sae),
    "topk": lambda d_in, d_sae: TopKAutoencoder(d_in, d_sae, k=min(3, d_sae)),
    "batch_topk": lambda d_in, d_sae: BatchTopKAutoencoder(d_in, d_sae, k=1.5),
    "matryoshka": lambda d_in, d_sae: MatryoshkaAutoencoder(
        d_in, d_sae, k=min(3, d_sae), widths=[d_sae // 2 + 1, d_sae] if d_sae > 2 else [d_sae]
    ),
}


def random_sae(kind, d_in, d_sae, seed=0, bias=0.0):
    g = torch.Generator().manual_seed(seed)
    sae = KINDS[kind](d_in, d_sae)
    with torch.no_grad():
        sae.W_enc.copy_(torch.randn(d_in, d_sae, generator=g) / d_in**0.5)
        sae.b_enc.copy_(torch.randn(d_sae, generator=g) * 0.3 + bias)
        sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=g), dim=1))
        sae.b_dec.copy_(torch.randn(d_in, generator=g) * 0.3)
    return sae


def measured(sae, given, penalty):
    """The loss of a pass with every term in it, and its gradients."""
    sae.zero_grad()
    loss = given.mse + 0.3 * given.total.sum() / len(given.residual)
    loss = loss + (0 if given.auxiliary is None else given.auxiliary)
    if penalty is not None:
        loss = loss + penalty(given.acts)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in sae.named_parameters()}


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(list(KINDS)),
    rows=st.integers(2, 70),
    d_in=st.integers(1, 40),
    d_sae=st.integers(2, 90),
    seed=st.integers(0, 999),
    bias=st.sampled_from([0.0, -2.0]),
    constrained=st.booleans(),
    share=st.sampled_from([0.0, 0.3]),
)
def test_agrees_on_random_shapes(kind, rows, d_in, d_sae, seed, bias, constrained, share):
    g = torch.Generator().manual_seed(seed)
    sae, x = random_sae(kind, d_in, d_sae, seed, bias), torch.randn(rows, d_in, generator=g)
    dead = torch.rand(d_sae, generator=g) < share
    penalty = FullOrthogonality(weight=2.0) if constrained else None
    plain, own = reference(sae.training_pass, x, dead), passes.forward(sae, x, dead)
    for name in ("residual", "mse", "total", "fired", "least"):
        mine, true = getattr(own, name), getattr(plain, name)
        assert (mine is None) == (true is None)
        if true is not None:
            torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-5)
    exact = copy.deepcopy(sae).double()  # on few rows, what plain float32 loses of a penalty's gradient can be seen
    loss, gradients = measured(exact, reference(exact.training_pass, x.double(), dead), penalty)
    other_loss, others = measured(sae, own, penalty)
    torch.testing.assert_close(other_loss, loss.float(), rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        gradient, scale = gradient.float(), float(gradient.abs().max()) + 1e-3
        torch.testing.assert_close(others[name], gradient, rtol=1e-3, atol=1e-4 * scale, msg=f"{name} of {kind}")


def test_both_ways_of_relu_are_taken():
    x = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    assert isinstance(passes.forward(random_sae("relu", 20, 60), x).acts, torch.Tensor)
    few = passes.forward(random_sae("relu", 20, 60, bias=-2.5), x).acts
    assert isinstance(few, Codes)
    again = Codes.from_dense(few.to_dense().detach())  # what came with them is right
    assert torch.equal(few.fired, again.fired)
    for mine, true in zip(few.by_feature, again.by_feature, strict=True):
        assert torch.equal(mine, true)


STEPS = {
    "relu": {},
    "relu, adamw": {"kind": "adamw", "weight_decay": 0.1},
    "topk": {},
    "batch_topk": {},
}


@pytest.mark.parametrize("projected", ["projected", "plain"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.3])
@pytest.mark.parametrize("case", STEPS)
def test_the_same_weights_after_some_steps(case, clip_norm, projected):
    made = []
    for fused in (True, False):
        training = TrainingSettings(precision="float32", fused=fused, decoder_gradient=projected, device="cpu")
        sae = random_sae(case.split(",")[0], 12, 40)
        penalty = InformedOrthogonality(refresh=3, window=2)
        s = Stepper(sae, OptimizerSettings(**STEPS[case]), training, penalty, clip_norm)
        g = torch.Generator().manual_seed(1)
        losses = [s.step(torch.randn(64, 12, generator=g), lr=1e-3, sparsity_weight=0.02).loss for _ in range(12)]
        made.append((s, losses))
    (own, losses), (plain, others) = made
    assert losses == pytest.approx(others, rel=1e-4)
    for (name, weight), (_, true) in zip(own.sae.named_parameters(), plain.sae.named_parameters(), strict=True):
        torch.testing.assert_close(weight, true, rtol=1e-3, atol=1e-4, msg=name)
    torch.testing.assert_close(own.sae.W_dec.norm(dim=1), torch.ones(40))
    state = plain.optimizer.state_dict()["state"]
    for number, mine in own.optimizer.state_dict()["state"].items():
        assert mine.keys() == state[number].keys()
        assert mine["step"] == state[number]["step"] == 12
        for moment, close in (("exp_avg", 1e-4), ("exp_avg_sq", 1e-5)):
            torch.testing.assert_close(mine[moment], state[number][moment], rtol=1e-2, atol=close)
    own.sae.load_state_dict(plain.sae.state_dict())  # and either goes on from the other's
    own.optimizer.load_state_dict(copy.deepcopy(plain.optimizer.state_dict()))
    for s in (own, plain):
        s.penalty = None
        s.step(torch.ones(64, 12), lr=1e-2, sparsity_weight=0.0)
    for name, weight in own.sae.state_dict().items():
        torch.testing.assert_close(weight, plain.sae.state_dict()[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("where", ["x", "W_enc", "W_dec"])
@pytest.mark.parametrize("bias", [0.0, -2.5])
def test_what_is_not_finite_updates_nothing(where, bias):
    sae, x = random_sae("relu", 20, 60, bias=bias), torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    training = TrainingSettings(device="cpu")
    s = Stepper(sae, OptimizerSettings(), training, InformedOrthogonality(refresh=2, window=2), clip_norm=1.0)
    s.step(x, lr=1e-3, sparsity_weight=0.1)
    (x if where == "x" else getattr(sae, where).data)[3, 5] = torch.nan
    weights = {name: p.detach().clone() for name, p in sae.named_parameters()}
    before = {name: value.clone() for name, value in s.penalty.state().items()}
    with pytest.raises(SleaveError, match="not finite"):
        s.step(x, lr=1e-3, sparsity_weight=0.1)
    for name, p in sae.named_parameters():
        assert torch.equal(p.nan_to_num(), weights[name].nan_to_num())
    if where != "W_dec":  # which may be of a feature that is silent
        for name, value in s.penalty.state().items():
            assert value.equal(before[name]) or value.isnan().all(), name


@pytest.mark.parametrize("bias", [0.0, -2.5])
def test_gradients_in_bfloat16_are_near_those_of_float32(bias):
    """Of a batch whose rows no rounding makes fire or fall silent, as near as plain torch's."""
    sae = random_sae("relu", 128, 512, bias=bias)
    x = torch.randn(600, 128, generator=torch.Generator().manual_seed(0)).bfloat16().float()
    z = x @ sae.W_enc + sae.b_enc
    x = x[(z.abs() > 0.02).float().mean(dim=1) > 0.99]
    _, exact = measured(sae, passes.forward(sae, x), None)
    with torch.autocast("cpu", torch.bfloat16):
        _, own = measured(sae, passes.forward(sae, x), None)
        _, plain = measured(sae, reference(sae.training_pass, x, None), None)
    for name, gradient in exact.items():
        off, usual = ((g[name] - gradient).norm() / gradient.norm() for g in (own, plain))
        assert off < max(0.02, 1.2 * usual), name


@pytest.mark.parametrize("kind", ["relu", "topk"])
def test_bfloat16_trains_as_float32(kind):
    """Losses of 200 steps, within what another order of the batches changes."""
    planted = torch.nn.functional.normalize(torch.randn(64, 32, generator=torch.Generator().manual_seed(3)), dim=1)

    def losses(fused, precision, seed=1):
        training = TrainingSettings(precision=precision, fused=fused, device="cpu")
        s = Stepper(random_sae(kind, 32, 96), OptimizerSettings(), training, SelectiveOrthogonality(refresh=10))
        g, found = torch.Generator().manual_seed(seed), []
        for _ in range(200):
            rows = (torch.rand(256, 64, generator=g) < 0.05) * torch.rand(256, 64, generator=g)
            found.append(s.step(4 * rows @ planted, lr=3e-3, sparsity_weight=0.02).loss)
        return torch.tensor(found)

    exact, own, other = losses(False, "float32"), losses(True, "bfloat16"), losses(False, "float32", seed=2)
    noise = (other[100:] - exact[100:]).abs().mean()
    assert (own[100:] - exact[100:]).abs().mean() < noise
    assert float(own[150:].mean()) == pytest.approx(float(exact[150:].mean()), rel=0.03)
    assert own[150:].mean() < own[0] / 4
