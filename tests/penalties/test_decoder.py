"""OrtSAE's penalty against autograd on the dense formula."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sleave
from sleave.base.errors import SleaveError
from sleave.penalties import decoder
from sleave.penalties.decoder import DecoderOrthogonality


def codes_of(W_dec):
    """The penalty does not look at them."""
    return torch.zeros(3, len(W_dec))


def directions(seed, d_sae, d_in, dtype=torch.float64):
    return torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense(W_dec, chunks):
    """The formula, by a d_sae^2 matrix: of each feature, the largest cosine with another of its chunk, squared."""
    unit = W_dec / W_dec.norm(dim=1, keepdim=True)
    chunk = torch.empty(len(W_dec), dtype=torch.int64)
    for n, features in enumerate(chunks):
        chunk[features] = n
    other = (chunk[:, None] == chunk) & ~torch.eye(len(W_dec), dtype=torch.bool)
    return (unit @ unit.T).masked_fill(~other, -torch.inf).max(dim=1).values.square().mean()


def chunks_of(d_sae, chunk, seed=0):
    """What a first call draws."""
    order = torch.randperm(d_sae, generator=torch.Generator().manual_seed(seed))
    return order.tensor_split(max(1, d_sae // chunk))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    d_sae=st.integers(2, 40),
    d_in=st.integers(1, 8),
    chunk=st.integers(2, 50),
    tile=st.sampled_from([1, 3, 1024]),
)
def test_equals_autograd_on_the_dense_formula(seed, d_sae, d_in, chunk, tile):
    W_dec = directions(seed, d_sae, d_in).requires_grad_()
    truth = 0.7 * dense(W_dec, chunks_of(d_sae, chunk, seed))
    (true_grad,) = torch.autograd.grad(truth, W_dec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder, "TILE", tile)
        value = DecoderOrthogonality(0.7, chunk, seed)(codes_of(W_dec), W_dec)
    (grad,) = torch.autograd.grad(value, W_dec)
    torch.testing.assert_close(value, truth)
    torch.testing.assert_close(grad, true_grad)


def test_by_hand():
    """Cosines 0.6, 0.8 and 0: the nearest of each are 0.6, 0.8, 0.8, whatever the norms."""
    W_dec = torch.tensor([[2.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    penalty = DecoderOrthogonality(weight=3.0)
    assert float(penalty(codes_of(W_dec), W_dec)) == pytest.approx(0.36 + 0.64 + 0.64)
    assert penalty.figures() == pytest.approx({"mean_square": (0.36 + 0.64 + 0.64) / 3, "largest": 0.8})
    pairs = penalty.pairs
    assert list(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)) == [(0, 1), (1, 2)]
    assert pairs.score.tolist() == pytest.approx([0.6, 0.8])


def test_opposite_directions_are_not_alike():
    W_dec = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    assert float(DecoderOrthogonality()(codes_of(W_dec), W_dec)) == 0


def test_gradcheck():
    W_dec = directions(3, 12, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda W: DecoderOrthogonality(1.0, 4)(codes_of(W), W), W_dec)


def test_the_length_of_a_direction_gains_nothing():
    W_dec = directions(0, 30, 6).requires_grad_()
    DecoderOrthogonality(chunk=10)(codes_of(W_dec), W_dec).backward()
    assert float(W_dec.grad.abs().max()) > 1e-4
    torch.testing.assert_close((W_dec.grad * W_dec).sum(dim=1), torch.zeros(30, dtype=torch.float64))


def test_ties():
    """Whichever of several equally near directions is taken, the value is the same and the gradient finite."""
    W_dec = torch.eye(4, dtype=torch.float64)[[0, 0, 0, 1, 1, 2, 3]].requires_grad_()
    value = DecoderOrthogonality(weight=1.0)(codes_of(W_dec), W_dec)
    (grad,) = torch.autograd.grad(value, W_dec)
    assert float(value.detach()) == pytest.approx(5 / 7)  # three alike, two alike, and two of which all are orthogonal
    assert float(grad.abs().max()) == 0  # a cosine of 1, and one of 0, are as flat as can be


@pytest.mark.parametrize(("d_sae", "chunk", "sizes"), [(10, 4, {5}), (11, 4, {5, 6}), (7, 4, {7}), (7, 100, {7})])
def test_chunks_have_at_least_the_size_asked_for(d_sae, chunk, sizes, monkeypatch):
    seen = []
    find = decoder._nearest
    monkeypatch.setattr(decoder, "_nearest", lambda unit, chunks: seen.extend(chunks) or find(unit, chunks))
    DecoderOrthogonality(chunk=chunk)(torch.zeros(3, d_sae), directions(0, d_sae, 3))
    assert {len(c) for c in seen} == sizes
    assert sorted(torch.cat(seen).tolist()) == list(range(d_sae))


def test_chunks_are_drawn_anew_and_resume_to_the_bit():
    W_dec = directions(1, 60, 5)
    whole, other, copy = (DecoderOrthogonality(chunk=6, seed=s) for s in (4, 5, 5))
    values = [float(whole(codes_of(W_dec), W_dec)) for _ in range(3)]
    assert len(set(values)) == 3
    assert float(other(codes_of(W_dec), W_dec)) != values[0]
    copy.restore(whole.state())
    assert [float(copy(codes_of(W_dec), W_dec)) for _ in range(4)] == [
        float(whole(codes_of(W_dec), W_dec)) for _ in range(4)
    ]


def test_under_autocast_only_the_search_uses_its_dtype():
    W_dec = directions(2, 200, 16, torch.float32)
    plain = DecoderOrthogonality()(codes_of(W_dec), W_dec)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = DecoderOrthogonality()(codes_of(W_dec), W_dec)
    assert mixed.dtype == torch.float32
    assert float(mixed) == pytest.approx(float(plain), rel=1e-3)


def test_codes_get_no_gradient():
    acts = torch.rand(3, 20, requires_grad=True)
    W_dec = directions(2, 20, 4).requires_grad_()
    DecoderOrthogonality()(acts, W_dec).backward()
    assert acts.grad is None
    assert W_dec.grad is not None


def test_before_the_first_call():
    penalty = sleave.DecoderOrthogonality()
    assert penalty.pairs is None
    assert penalty.figures() == {}
    assert (penalty.weight, penalty.chunk) == (0.25, 8192)


def test_lowers_cosines():
    W_dec = directions(0, 40, 20, torch.float32).requires_grad_()
    penalty, optimizer = DecoderOrthogonality(weight=1.0), torch.optim.Adam([W_dec], lr=0.02)
    before = float(penalty(codes_of(W_dec), W_dec).detach())
    for _ in range(100):
        optimizer.zero_grad()
        penalty(codes_of(W_dec), W_dec).backward()
        optimizer.step()
    assert float(penalty(codes_of(W_dec), W_dec).detach()) < 0.4 * before


def test_without_a_decoder():
    with pytest.raises(SleaveError, match=r"`W_dec` is missing.* call penalty\(acts, W_dec\)\."):
        DecoderOrthogonality()(torch.zeros(3, 4))


def test_one_direction():
    with pytest.raises(SleaveError, match=r"`W_dec` has 1 rows; there must be at least 2"):
        DecoderOrthogonality()(torch.zeros(3, 1), torch.ones(1, 4))


def test_refuses_a_chunk_of_one():
    with pytest.raises(SleaveError, match=r"`chunk` \(= 1\) must be at least 2"):
        DecoderOrthogonality(chunk=1)
