"""Mutual information as a penalty: what it chooses, what it is, and that it does what it is for."""

import pytest
import torch

from sleave.base.errors import SleaveError
from sleave.dependence.kde import bandwidth, kde_all_pairs, kde_dense, kde_pairs
from sleave.penalties.information import InformationPenalty

pytestmark = pytest.mark.usefixtures("one_thread")


def codes(seed, rows=40, d_sae=12):
    g = torch.Generator().manual_seed(seed)
    common = torch.randn(rows, 1, generator=g, dtype=torch.float64)
    return (torch.randn(rows, d_sae, generator=g, dtype=torch.float64) + common - 0.5).relu()


@pytest.mark.parametrize("scale", ["absolute", "std"])
@pytest.mark.parametrize("weighting", ["uniform", "information"])
def test_equals_the_formula_on_the_pairs_with_the_most_information(scale, weighting):
    acts = codes(0)
    acts[:, 3] = acts[:, 8] = 0
    every = kde_all_pairs(acts, scale=scale)
    order = sorted((-float(every[i, j]), i, j) for j in range(12) for i in range(j))[:20]
    acts.requires_grad_()
    penalty = InformationPenalty(weight=0.5, top=20 / 66, bandwidth_scale=scale, weighting=weighting)
    value = penalty(acts)
    (grad,) = torch.autograd.grad(value, acts)
    pairs = penalty.pairs
    i, j, score = pairs.ranked()
    chosen = zip((-score).tolist(), i.tolist(), j.tolist(), strict=True)
    assert list(chosen) == order
    h = bandwidth(acts, scale=scale)
    truth = kde_dense(acts.t()[pairs.i], acts.t()[pairs.j], h[pairs.i], h[pairs.j])
    total = 0.5 * (truth * (truth.detach() if weighting == "information" else 1)).mean()
    (true_grad,) = torch.autograd.grad(total, acts)
    torch.testing.assert_close(value, total)
    torch.testing.assert_close(grad, true_grad.where(acts != 0, 0))
    assert penalty.figures()["information"] == pytest.approx(truth.mean().item())


def test_pairs_that_never_fire_together_are_not_chosen():
    acts = torch.zeros(6, 5)
    acts[0, 3] = acts[0, 4] = acts[1, 0] = acts[2, 1] = 50
    penalty = InformationPenalty(top=0.5)
    assert penalty(acts) > 0
    assert list(zip(penalty.pairs.i.tolist(), penalty.pairs.j.tolist(), strict=True)) == [(3, 4)]


def test_lowers_the_information_of_two_dependent_features():
    acts = codes(1, rows=400, d_sae=3)
    acts[:, 2] = 0
    acts.requires_grad_()
    penalty = InformationPenalty(top=0.5, bandwidth_factor=0.6)
    first = penalty(acts).item()
    optimizer = torch.optim.Adam([acts], lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        penalty(acts).backward()
        optimizer.step()
    assert 0 < penalty(acts).item() < 0.9 * first


def test_low_precision_codes_under_autocast():
    acts = codes(2).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = InformationPenalty(weight=1.0, top=0.2)
        value = penalty(acts)
    value.backward()
    assert value.dtype == torch.float32
    assert acts.grad.dtype == torch.bfloat16
    expected = kde_pairs(acts.detach().double(), penalty.pairs.i, penalty.pairs.j).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)


def test_pairs_are_kept_between_refreshes_and_compared():
    penalty = InformationPenalty(top=0.1, refresh=3)
    assert penalty.pairs is None
    chosen, information = [], []
    for seed in range(6):
        penalty(codes(seed))
        chosen.append(penalty.pairs)
        information.append(penalty.figures()["information"])
    assert chosen[0] is chosen[1] is chosen[2]
    assert chosen[3] is chosen[4] is chosen[5]
    figures = penalty.figures()
    assert figures["overlap"] == chosen[3].jaccard(chosen[0])
    assert figures["pairs"] == 7
    assert figures["peak"] >= figures["mean"] >= figures["least"]
    assert information[3] == pytest.approx(figures["mean"])
    assert len(set(information)) == 6


def test_state_goes_on_as_if_never_stopped():
    def run(penalty, seeds):
        return [float(penalty(codes(seed))) for seed in seeds]

    whole, copy = (InformationPenalty(top=0.1, refresh=2) for _ in range(2))
    run(whole, range(3))
    copy.restore(whole.state())
    assert run(copy, range(3, 7)) == run(whole, range(3, 7))
    assert copy.figures() == whole.figures()
    fresh = InformationPenalty()
    fresh.restore(InformationPenalty().state())
    assert fresh.pairs is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top": 0}, r"`top` \(= 0\)"),
        ({"weight": -1}, r"`weight` \(= -1\)"),
        ({"refresh": -1}, r"`refresh` \(= -1\)"),
        ({"weighting": "none"}, r"`weighting` \(= 'none'\) must be one of 'uniform', 'information'"),
    ],
)
def test_refuses_what_makes_no_sense(arguments, message):
    with pytest.raises(SleaveError, match=message):
        InformationPenalty(**arguments)
