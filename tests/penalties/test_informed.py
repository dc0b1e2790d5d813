"""sleave's own penalty: its formula, what it leaves alone, how little it pushes what only chance brings together."""

import pytest
import torch

import sleave
from sleave.penalties.guided import MIOrtho
from sleave.penalties.informed import InformedOrthogonality
from sleave.penalties.settings import InformedConstraint


def batch(seed, rows=400, d_sae=30, bound=0.8):
    """Codes of which each feature is bound to its neighbour."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, d_sae, generator=generator, dtype=torch.float64)
    z[:, 1::2] = bound * z[:, ::2] + (1 - bound**2) ** 0.5 * z[:, 1::2]
    return torch.relu(z - 1)


def correlation(acts):
    unit = acts / acts.norm(dim=0)
    return unit.T @ unit


def test_it_is_its_formula():
    """I is of all batches of the window, C of the last, and only C has a gradient."""
    penalty = InformedOrthogonality(weight=7.0, top=0.1, window=3, refresh=2)
    for seed in range(4):
        penalty(batch(seed))
    acts = batch(4).requires_grad_()
    value = penalty(acts)
    pooled = torch.cat([batch(seed) for seed in (2, 3, 4)])
    information = sleave.mutual_information(pooled, bins=4).to_dense()
    fires = (pooled > 0).double()
    information[fires.T @ fires * len(pooled) <= torch.outer(fires.sum(0), fires.sum(0))] = 0
    all_pairs = information[torch.triu(torch.ones(30, 30), 1) > 0]
    information[information <= all_pairs.quantile(0.9)] = 0
    assert len(penalty.pairs) == 44
    truth = 7.0 * (information * correlation(acts)).triu(1).sum()
    torch.testing.assert_close(value, truth)
    (grad,), (true_grad,) = torch.autograd.grad(value, acts), torch.autograd.grad(truth, acts)
    torch.testing.assert_close(grad, true_grad * (acts != 0))


def test_features_that_avoid_each_other_are_left_alone():
    acts = batch(0)
    acts[:, 1] = torch.where(acts[:, 0] > 0, 0.0, 1.0)  # never together but once
    acts[0, :2] = 1.0
    informed, plain = InformedOrthogonality(top=0.1), MIOrtho(top=0.1)
    for penalty, there in ((informed, False), (plain, True)):
        penalty(acts)
        pairs = set(zip(penalty.pairs.i.tolist(), penalty.pairs.j.tolist(), strict=True))
        assert ((0, 1) in pairs) == there
        assert (2, 3) in pairs


def pushed(penalty, acts, features):
    """The share of the gradient that some features get."""
    acts = acts.clone().requires_grad_()
    penalty(acts).backward()
    return acts.grad[:, features].norm() / acts.grad.norm()


def test_what_only_chance_brings_together_is_hardly_pushed():
    """Features 0 to 19 are independent, 20 to 29 bound: a sum of squares pushes the former, too."""

    def mixed(seed):
        acts = batch(seed, rows=2000)
        acts[:, :20] = batch(seed + 100, rows=2000, bound=0.0)[:, :20]
        return acts

    informed, squares = InformedOrthogonality(top=0.9), MIOrtho(top=0.9, beta=0.0)
    for seed in range(20):
        informed(mixed(seed))
    independent = list(range(20))
    assert pushed(informed, mixed(50), independent) < 0.2 * pushed(squares, mixed(50), independent)


def test_the_weight_follows_the_input():
    """The squared error is a sum over d_in."""
    assert InformedConstraint().build(640).weight == 1.0
    assert InformedConstraint().build(2304).weight == pytest.approx(3.6)
    assert InformedConstraint(weight=0.5).build(2304).weight == pytest.approx(1.8)


def test_only_what_is_dependent_is_pushed():
    """Half of all independent pairs have less information than chance gives on average; none is pulled together."""
    acts = batch(0, rows=1000, bound=0.0)
    penalty = InformedOrthogonality(top=0.9)
    penalty(acts)
    assert 0 < len(penalty.pairs) < 0.6 * 435
    assert float(penalty.pairs.score.min()) > 0
