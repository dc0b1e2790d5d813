"""MI-Ortho and its baselines: what they choose, how hard they push, and that they go on as if never stopped."""

import math

import pytest
import torch

import sleave
from sleave.base.errors import SleaveError
from sleave.dependence.mutual_information import Estimation
from sleave.dependence.selection import top_pairs
from sleave.penalties.guided import GradientOrthogonality, MIOrtho, TemporalOrthogonality


def batch(seed, rows=400, d_sae=30):
    """Codes of which each feature is bound to its neighbour."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, d_sae, generator=generator, dtype=torch.float64)
    z[:, 1::2] = 0.8 * z[:, ::2] + 0.6 * z[:, 1::2]
    return torch.relu(z - 1)


def correlation(acts):
    unit = acts / acts.norm(dim=0)
    return unit.T @ unit


def test_mi_ortho_is_its_formula():
    acts = batch(0).requires_grad_()
    penalty = MIOrtho(weight=7.0, top=0.1)
    value = penalty(acts)
    chosen = sleave.mutual_information(acts.detach(), bins=4).top(0.1, min_coactivations=1)
    assert torch.equal(penalty.pairs.i, chosen.i)
    assert set(zip(range(0, 30, 2), range(1, 30, 2), strict=True)) <= set(
        zip(chosen.i.tolist(), chosen.j.tolist(), strict=True)
    )
    tau = 0.5 * torch.exp(2.0 * chosen.score)
    truth = 7.0 * (tau * correlation(acts)[chosen.i, chosen.j].square()).mean()
    torch.testing.assert_close(value, truth)
    (grad,), (true_grad,) = torch.autograd.grad(value, acts), torch.autograd.grad(truth, acts)
    torch.testing.assert_close(grad, true_grad * (acts != 0))


def test_the_papers_own_form_is_the_sum_of_products():
    acts = batch(1).requires_grad_()
    penalty = MIOrtho(weight=1.0, normalization="none", tau_max=math.inf)
    value = penalty(acts)
    pairs = penalty.pairs
    truth = (0.5 * torch.exp(2 * pairs.score) * (acts.T @ acts)[pairs.i, pairs.j].square()).sum()
    torch.testing.assert_close(value, truth)
    twice = MIOrtho(weight=1.0, normalization="none", tau_max=math.inf)(torch.cat([acts, acts]) * 2)
    assert twice.item() == pytest.approx(value.item() * 4 * 16, rel=0.2)  # N^2 times the fourth power of the codes


def test_tau_is_clipped_at_duplicates():
    acts = batch(2)
    acts[:, 1] = acts[:, 0] = torch.rand(400, dtype=torch.float64)
    free, clipped = MIOrtho(beta=40.0, tau_max=1e30), MIOrtho(beta=40.0, tau_max=3.0)
    assert free(acts) > 1e6 * clipped(acts)
    assert float(clipped.strength(clipped.pairs).max()) == 3.0
    assert bool(torch.isfinite(MIOrtho(beta=1e4, tau_max=3.0)(acts)))


def test_gradient_descent_on_mi_ortho_lowers_mutual_information():
    acts, before = batch(3, 1000), None
    mixing = torch.eye(30, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([mixing], lr=0.01)
    penalty = MIOrtho(weight=100.0, refresh=5)
    for _ in range(60):
        codes = torch.relu(acts @ mixing)
        before = before or sleave.mutual_information(codes.detach()).mean()
        optimizer.zero_grad()
        penalty(codes).backward()
        optimizer.step()
    held_out = torch.relu(batch(4, 1000) @ mixing.detach())
    assert sleave.mutual_information(held_out).mean() < 0.7 * before


@pytest.mark.parametrize("estimator", ["atoms", "activity", "kde"])
def test_every_estimator_finds_the_bound_pairs(estimator):
    penalty = MIOrtho(top=15 / (30 * 29 / 2), estimation=Estimation(estimator))
    penalty(batch(5, 800))
    found = set(zip(penalty.pairs.i.tolist(), penalty.pairs.j.tolist(), strict=True))
    assert len(found & set(zip(range(0, 30, 2), range(1, 30, 2), strict=True))) >= 13


def test_gradient_pairs_are_those_of_the_squared_errors_gradient():
    acts = batch(6).float().requires_grad_()
    W_dec = torch.randn(30, 12, generator=torch.Generator().manual_seed(0))
    x = torch.randn(400, 12, generator=torch.Generator().manual_seed(1))
    residual = acts @ W_dec - x
    (gradient,) = torch.autograd.grad(residual.square().sum(1).mean(), acts)
    penalty = GradientOrthogonality(top=0.1)
    value = penalty(acts, W_dec, residual.detach())
    expected = top_pairs(gradient, 0.1)
    assert torch.equal(penalty.pairs.i, expected.i)
    assert torch.equal(penalty.pairs.j, expected.j)
    truth = penalty.weight * correlation(acts)[expected.i, expected.j].square().mean()
    torch.testing.assert_close(value, truth)


def test_fixed_pairs_are_chosen_once_and_adaptive_ones_anew():
    W_dec = torch.randn(30, 12, generator=torch.Generator().manual_seed(0))
    fixed, adaptive = GradientOrthogonality(refresh=0), GradientOrthogonality(refresh=2)
    chosen = []
    for seed in range(5):
        residual = torch.randn(400, 12, generator=torch.Generator().manual_seed(seed))
        for penalty in (fixed, adaptive):
            penalty(batch(seed).float(), W_dec, residual)
        chosen.append((fixed.pairs, adaptive.pairs))
    assert all(pair[0] is chosen[0][0] for pair in chosen)
    assert chosen[0][1] is chosen[1][1]
    assert chosen[1][1] is not chosen[2][1]
    assert "overlap" not in fixed.figures()
    assert 0 <= adaptive.figures()["overlap"] < 1


def test_temporal_pools_over_batches_and_weighs_by_what_it_pooled():
    penalty = TemporalOrthogonality(weight=2.0, window=3, refresh=1)
    batches = [batch(seed) for seed in range(5)]
    values = [penalty(acts) for acts in batches]
    pooled = correlation(torch.cat(batches[2:]))
    pairs = penalty.pairs
    torch.testing.assert_close(pairs.score, pooled[pairs.i, pairs.j])
    truth = 2.0 * (pairs.score * correlation(batches[-1])[pairs.i, pairs.j].square()).mean()
    torch.testing.assert_close(values[-1], truth)


@pytest.mark.parametrize("refresh", [1, 2, 3, 7])
@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_choice_sees_the_last_batches_whatever_the_refresh(refresh, window):
    penalty = TemporalOrthogonality(window=window, refresh=refresh, compare=refresh > window)
    batches = [batch(seed, 100) for seed in range(15)]
    for n, acts in enumerate(batches):
        penalty(acts)
        due = n - n % refresh
        seen = correlation(torch.cat(batches[max(0, due - window + 1) : due + 1])).nan_to_num()
        torch.testing.assert_close(penalty.pairs.score, seen[penalty.pairs.i, penalty.pairs.j])


def test_the_next_batch_is_compared_with():
    penalty = sleave.SelectiveOrthogonality(top=0.1, refresh=5, compare=True)
    for seed in range(7):
        penalty(batch(seed))
    a, b = top_pairs(batch(5), 0.1), top_pairs(batch(6), 0.1)
    assert penalty.figures()["overlap_next"] == a.jaccard(b)
    assert penalty.figures()["overlap"] == top_pairs(batch(0), 0.1).jaccard(a)


def test_pooled_choices_are_compared_over_batches_that_they_do_not_share():
    penalty = TemporalOrthogonality(top=0.1, window=3, refresh=6, compare=True)
    for seed in range(10):
        penalty(batch(seed))
    a, b = (top_pairs(torch.cat([batch(n) for n in seeds]), 0.1) for seeds in ((4, 5, 6), (7, 8, 9)))
    assert penalty.figures()["overlap_next"] == a.jaccard(b)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MIOrtho(refresh=3, window=2, shrinkage=2.0, compare=True),
        lambda: TemporalOrthogonality(window=4, refresh=3),
        lambda: sleave.InformedOrthogonality(window=4, refresh=3),
        lambda: GradientOrthogonality(refresh=3, window=2, min_coactivations=2),
    ],
)
@pytest.mark.parametrize("stop", [1, 3, 4, 5])
def test_state_goes_on_as_if_never_stopped(make, stop):
    W_dec = torch.randn(30, 12, generator=torch.Generator().manual_seed(0))

    def run(penalty, seeds):
        residual = [torch.randn(400, 12, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return [float(penalty(batch(s).float(), W_dec, r)) for s, r in zip(seeds, residual, strict=True)]

    whole, copy = make(), make()
    run(whole, range(stop))
    copy.restore({name: tensor.clone() for name, tensor in whole.state().items()})
    assert run(copy, range(stop, 9)) == run(whole, range(stop, 9))
    assert copy.figures() == whole.figures()


def test_dead_features_are_left_alone():
    acts = batch(7)
    acts[:, 4] = 0
    acts.requires_grad_()
    for penalty in (MIOrtho(top=0.5), TemporalOrthogonality(top=0.5, window=2)):
        value = penalty(acts)
        (grad,) = torch.autograd.grad(value, acts)
        assert bool(torch.isfinite(grad).all())
        assert grad[:, 4].abs().max().item() == 0


@pytest.mark.parametrize(
    "make", [MIOrtho, TemporalOrthogonality, sleave.InformationPenalty, sleave.InformedOrthogonality]
)
def test_nothing_fires_together(make):
    acts = torch.eye(8).repeat(20, 1).requires_grad_()
    penalty = make()
    value = penalty(acts)
    value.backward()
    assert len(penalty.pairs) == 0
    assert value.item() == acts.grad.abs().max().item() == 0
    assert penalty.figures()["pairs"] == 0


def penalised_twice(penalty, *widths):
    for width in widths:
        penalty(batch(0, d_sae=width))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MIOrtho(tau_0=0), r"`tau_0` \(= 0\)"),
        (lambda: MIOrtho(top=0), r"`top` \(= 0\)"),
        (lambda: MIOrtho(refresh=-2), r"`refresh` \(= -2\)"),
        (lambda: MIOrtho(shrinkage=-1), r"`min_coactivations` \(= 0\) and `shrinkage` \(= -1\) must not be negative"),
        (lambda: MIOrtho(window=0), r"`window` \(= 0\)"),
        (
            lambda: MIOrtho(window=3, refresh=3, compare=True),
            r"`compare` needs `refresh` \(= 3\) above `window` \(= 3\)",
        ),
        (lambda: GradientOrthogonality(window=2), r"`window` \(= 2\) must be 1 with refresh = 0"),
        (
            lambda: penalised_twice(MIOrtho(), 30, 20),
            "`acts` has 20 features, but a chosen pair names feature 29. Use a penalty for one autoencoder only",
        ),
        (lambda: penalised_twice(TemporalOrthogonality(window=2, refresh=1), 30, 20), "Batches of 20 and 30 features"),
        (lambda: MIOrtho(top=1.0), r"`top` \(= 1.0\) must be below 1"),
        (lambda: GradientOrthogonality()(batch(0)), r"give the decoder and the residual too: penalty\(acts, W_dec"),
        (lambda: MIOrtho()(torch.full((9, 4), math.nan)), "NaN or infinite values"),
        (
            lambda: GradientOrthogonality().signal(torch.ones(5, 30), torch.ones(400, 5)),
            r"`W_dec` has shape \(5, 30\) and `residual` \(400, 5\); they must be \(d_sae, d_in\)",
        ),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(SleaveError, match=message):
        make()
