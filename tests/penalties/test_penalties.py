"""Penalties against autograd on the dense formula."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sleave.base.errors import SleaveError
from sleave.dependence.correlation import check_measure
from sleave.dependence.selection import top_pairs
from sleave.penalties import pairwise
from sleave.penalties.orthogonality import FullOrthogonality, SelectiveOrthogonality
from sleave.penalties.pairwise import pair_penalty


def dense_correlation(acts, measure):
    if measure == "pearson":
        acts = acts - acts.mean(0)
    norm = acts.square().sum(0)
    safe = torch.where(norm > 0, norm, 1).sqrt()
    unit = acts / safe
    return unit.T @ unit


def where_it_fires(grad, acts):
    """A code that is zero gets no gradient, as behind any activation function."""
    return grad * (acts != 0)


def codes(seed, rows, d_sae, density=0.3):
    g = torch.Generator().manual_seed(seed)
    pre = torch.randn(rows, d_sae, generator=g, dtype=torch.float64)
    return ((pre + torch.randn(rows, 1, generator=g, dtype=torch.float64)) - 0.5).relu()


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(2, 20),
    d_sae=st.integers(3, 15),
    measure=st.sampled_from(["cosine", "pearson"]),
    top=st.sampled_from([0.05, 0.5, 1.0]),
)
def test_selective_equals_autograd_on_the_dense_formula(seed, rows, d_sae, measure, top):
    acts = codes(seed, rows, d_sae).requires_grad_()
    penalty = SelectiveOrthogonality(top=top, weight=0.3, measure=measure)
    value = penalty(acts)
    (grad,) = torch.autograd.grad(value * 2, acts)
    chosen = dense_correlation(acts, measure)[penalty.pairs.i, penalty.pairs.j]
    truth = 0.3 * chosen.square().sum()
    (true_grad,) = torch.autograd.grad(truth * 2, acts)
    torch.testing.assert_close(value, truth)
    # A constant column has no Pearson gradient here, and only rounding in the dense formula.
    constant = (acts == acts[:1]).all(0)
    torch.testing.assert_close(grad[:, ~constant], where_it_fires(true_grad, acts)[:, ~constant])


@pytest.mark.parametrize("measure", ["cosine", "pearson"])
@pytest.mark.parametrize("columns", [4096, 3])
def test_full_equals_autograd_on_the_dense_formula(measure, columns, monkeypatch):
    monkeypatch.setattr(pairwise, "COLUMNS", columns)
    acts = codes(0, 12, 10)
    acts[:, 4] = 0  # dead
    acts.requires_grad_()
    value = FullOrthogonality(0.7, measure)(acts)
    (grad,) = torch.autograd.grad(value, acts)
    truth = 0.7 * dense_correlation(acts, measure).triu(1).square().sum()
    (true_grad,) = torch.autograd.grad(truth, acts)
    torch.testing.assert_close(value, truth)
    torch.testing.assert_close(grad, where_it_fires(true_grad, acts))


def test_full_is_selective_with_every_pair():
    acts = codes(5, 30, 9)
    full, selective = FullOrthogonality(0.1), SelectiveOrthogonality(top=1.0, weight=0.1)
    assert full.pairs is selective.pairs is None
    torch.testing.assert_close(full(acts), selective(acts))
    for part in ("i", "j", "score"):
        assert torch.equal(getattr(full.pairs, part), getattr(selective.pairs, part))
    assert len(full.pairs) == 36


@pytest.mark.parametrize("measure", ["cosine", "pearson"])
def test_gradcheck(measure):
    acts = (codes(1, 8, 6) + 0.1).requires_grad_()
    pairs = top_pairs(acts, 0.5, measure=measure)
    weight = torch.rand(len(pairs), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: pair_penalty(a, pairs, weight, measure), acts)
    assert torch.autograd.gradcheck(lambda a: FullOrthogonality(0.1, measure)(a), acts)


def test_by_hand():
    """Features (1, 1) and (0, 1): C = 1/sqrt 2, so the penalty is w/2, and its gradient in f_1 = (0, 1) is
    2 w C (z_0 - C z_1) / |f_1| = w sqrt 2 ((1, 1)/sqrt 2 - (0, 1)/sqrt 2) = w (1, 0); likewise in f_0, w (-1, 1)/2.
    The code that is 0 gets none."""
    acts = torch.tensor([[1.0, 0.0], [1.0, 1.0]], requires_grad=True)
    value = SelectiveOrthogonality(top=1.0, weight=0.2)(acts)
    value.backward()
    assert value.item() == pytest.approx(0.1)
    torch.testing.assert_close(acts.grad, torch.tensor([[-0.1, 0.0], [0.1, 0.0]]))


@pytest.mark.parametrize("penalty", [SelectiveOrthogonality(top=1.0), FullOrthogonality()])
def test_zero_on_features_that_never_fire_together(penalty):
    acts = torch.eye(6).repeat(3, 1).requires_grad_()
    value = penalty(acts)
    value.backward()
    assert value.item() == 0
    assert acts.grad.abs().max().item() < 1e-7


def test_scale_gains_nothing():
    """C does not change when a feature shrinks, so the gradient along the feature itself is zero."""
    acts = codes(2, 40, 8).requires_grad_()
    FullOrthogonality()(acts).backward()
    along = (acts.grad * acts).sum(0)
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-12, rtol=0)


def test_pairs_are_kept_between_refreshes():
    penalty = SelectiveOrthogonality(top=0.1, refresh=3)
    chosen = []
    for seed in range(6):
        penalty(codes(seed, 30, 20))
        chosen.append(penalty.pairs)
    assert chosen[0] is chosen[1] is chosen[2]
    assert chosen[3] is chosen[4] is chosen[5]
    assert chosen[0] is not chosen[3]
    assert "overlap" in penalty.figures()


def test_state_goes_on_as_if_never_stopped():
    def run(penalty, seeds):
        return [float(penalty(codes(seed, 30, 20))) for seed in seeds]

    whole = SelectiveOrthogonality(top=0.1, refresh=2, window=3)
    first = run(whole, range(3))
    copy = SelectiveOrthogonality(top=0.1, refresh=2, window=3)
    copy.restore(whole.state())
    assert run(copy, range(3, 9)) == run(whole, range(3, 9))
    assert copy.figures() == whole.figures()
    assert len(first) == 3


def test_under_autocast_full_uses_its_dtype_and_stays_close():
    acts = codes(3, 64, 40).float().requires_grad_()
    plain = FullOrthogonality()(acts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = FullOrthogonality()(acts)
    assert mixed.item() != plain.item()
    assert mixed.item() == pytest.approx(plain.item(), rel=0.02)


def test_bf16_codes_give_a_bf16_gradient():
    acts = codes(3, 64, 40).bfloat16().requires_grad_()
    SelectiveOrthogonality(top=0.1)(acts).backward()
    assert acts.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"top": 0}, r"`top` \(= 0\)"),
        ({"weight": -1}, r"`weight` \(= -1\)"),
        ({"refresh": -1}, r"`refresh` \(= -1\)"),
        ({"window": 0}, r"`window` \(= 0\)"),
    ],
)
def test_refuses_a_number_out_of_range(arguments, message):
    with pytest.raises(SleaveError, match=message):
        SelectiveOrthogonality(**arguments)


def test_refuses_an_unknown_measure():
    with pytest.raises(SleaveError, match=r"`measure` \(= 'spearman'\) must be one of 'cosine', 'pearson'"):
        check_measure("spearman")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(2, 30),
    d_sae=st.integers(3, 15),
    measure=st.sampled_from(["cosine", "pearson", "dot"]),
    columns=st.sampled_from([4, 4096]),
    shift=st.sampled_from([0.0, 0.3]),  # then no code is zero, and some are negative
    power=st.sampled_from([1, 2]),
)
def test_every_way_gives_what_autograd_gives(seed, rows, d_sae, measure, columns, shift, power):
    acts = codes(seed, rows, d_sae) - shift
    acts[:, 0] = 0  # dead
    acts.requires_grad_()
    pairs = top_pairs(acts, 0.4)
    weight = torch.rand(len(pairs), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    strength = acts.T @ acts if measure == "dot" else dense_correlation(acts, measure)
    truth = (weight * strength[pairs.i, pairs.j] ** power).sum()
    (true_grad,) = torch.autograd.grad(truth * 3, acts)
    varies = ~(acts == acts[:1]).all(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairwise, "COLUMNS", columns)
        for way in ("pairs", "coactivations", "dense"):
            value = pair_penalty(acts, pairs, weight, measure, way, power)
            (grad,) = torch.autograd.grad(value * 3, acts)
            torch.testing.assert_close(value, truth)
            torch.testing.assert_close(grad[:, varies], where_it_fires(true_grad, acts)[:, varies])


@pytest.mark.parametrize("power", [1, 2])
def test_ways_agree_in_float32_and_under_autocast(power):
    acts = codes(3, 200, 40).float().requires_grad_()
    pairs = top_pairs(acts.detach(), 0.3)
    weight = torch.rand(len(pairs), generator=torch.Generator().manual_seed(0)) - 0.3  # of either sign
    reference = pair_penalty(acts, pairs, weight, way="pairs", power=power)
    (gradient,) = torch.autograd.grad(reference, acts)
    for way in ("coactivations", "dense"):
        value = pair_penalty(acts, pairs, weight, way=way, power=power)
        torch.testing.assert_close(value, reference)
        torch.testing.assert_close(torch.autograd.grad(value, acts)[0], gradient, rtol=1e-4, atol=1e-7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = pair_penalty(acts, pairs, weight, way="dense", power=power)
    (found,) = torch.autograd.grad(value, acts)
    torch.testing.assert_close(found, gradient, rtol=0.05, atol=0.02 * float(gradient.abs().max()))


@pytest.mark.parametrize(("power", "some"), [(3, True), (1, False)])
def test_another_power_is_refused(power, some):
    pairs = top_pairs(codes(0, 50, 30), 0.1) if some else None
    with pytest.raises(SleaveError, match=f"`power` \\(= {power}\\) must be 2, or 1 with chosen pairs"):
        pair_penalty(codes(0, 50, 30), pairs, power=power)


def test_the_way_with_the_least_work_is_taken():
    pairs = top_pairs(codes(0, 50, 300), 0.1)
    assert pairwise._least_work(codes(0, 50, 300), None)[0] == "dense"
    assert pairwise._least_work(torch.rand(50, 300), pairs)[0] == "dense"
    assert pairwise._least_work(torch.rand(50, 300), pairs.strongest(20))[0] == "pairs"
    assert pairwise._least_work(torch.rand(50, 300) * (torch.rand(50, 300) < 0.01), pairs)[0] == "coactivations"


def test_products_of_large_codes_do_not_overflow_under_autocast():
    acts = (codes(0, 2048, 64) * 8).float()
    pairs = top_pairs(acts, 0.5)
    with torch.autocast("cpu", dtype=torch.float16):
        values = [pair_penalty(acts, pairs, None, "dot", way).item() for way in ("pairs", "coactivations", "dense")]
    assert values[1] == pytest.approx(values[0], rel=1e-4)
    assert values[2] == pytest.approx(values[0], rel=1e-4)
