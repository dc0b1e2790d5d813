import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sleave.codes import products
from sleave.codes.codes import Codes, as_codes
from sleave.codes.products import encoded, reference_sums, times


def sparse(rows, d_sae, rate, seed, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    acts = torch.rand(rows, d_sae, generator=g, dtype=dtype)
    return acts * (torch.rand(rows, d_sae, generator=g) < rate)


shapes = {"rows": st.integers(1, 7), "d_sae": st.integers(2, 9), "rate": st.sampled_from([0.0, 0.3, 1.0])}


@settings(max_examples=40, deadline=None)
@given(**shapes, seed=st.integers(0, 99))
def test_times_and_its_gradients_are_those_of_the_dense_product(rows, d_sae, rate, seed):
    acts = sparse(rows, d_sae, rate, seed)
    matrix = torch.randn(d_sae, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    codes = Codes.from_dense(acts)
    value = codes.value.clone().requires_grad_()
    sparse_matrix, dense_matrix = (matrix.clone().requires_grad_() for _ in range(2))
    dense = acts.clone().requires_grad_()
    target = torch.randn(rows, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    ours, theirs = times(codes.with_value(value), sparse_matrix), dense @ dense_matrix
    torch.testing.assert_close(ours, theirs)
    for product in (ours, theirs):
        ((product - target) ** 2).sum().backward()
    torch.testing.assert_close(sparse_matrix.grad, dense_matrix.grad)
    torch.testing.assert_close(value.grad, dense.grad[codes.row, codes.feature])


@settings(max_examples=40, deadline=None)
@given(**shapes, seed=st.integers(0, 99))
def test_gradients_of_encoded_values_are_those_of_the_dense_encoder(rows, d_sae, rate, seed):
    g = torch.Generator().manual_seed(seed)
    x, W, b = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((rows, 4), (4, d_sae), (d_sae,)))
    mask = sparse(rows, d_sae, rate, seed) != 0
    pull = torch.randn(rows, d_sae, generator=g, dtype=torch.float64)
    given, dense = ([t.clone().requires_grad_() for t in (x, W, b)] for _ in range(2))
    pre = x @ W + b
    structure = Codes.from_dense(mask.double())
    codes = encoded(structure.with_value(pre[structure.row, structure.feature]), *given)
    (codes.value * pull[codes.row, codes.feature]).sum().backward()
    ((dense[0] @ dense[1] + dense[2]) * mask * pull).sum().backward()
    for ours, theirs in zip(given, dense, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_kernels_agree_with_the_reference_for_other_devices(monkeypatch):
    codes = Codes.from_dense(sparse(50, 30, 0.2, 0, torch.float32))
    matrix, rows = torch.randn(30, 16), torch.randn(50, 16)
    quick = [products.row_sums(codes, codes.value, matrix), products.feature_sums(codes, codes.value, rows)]
    dots = products.entry_dots(codes, rows, matrix)
    monkeypatch.setattr(products, "_weighted_sums", reference_sums)
    slow = [products.row_sums(codes, codes.value, matrix), products.feature_sums(codes, codes.value, rows)]
    for a, b in zip(quick, slow, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(dots, (rows[codes.row] * matrix[codes.feature]).sum(1))


def test_second_derivatives_are_refused_rather_than_wrong():
    codes = Codes.from_dense(sparse(5, 6, 0.5, 1))
    matrix = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    value = codes.value.clone().requires_grad_()
    (grad,) = torch.autograd.grad(times(codes.with_value(value), matrix).square().sum(), value, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_what_is_made_of_topk_codes_has_their_gradient():
    values = torch.tensor([[1.0, 3.0], [2.0, 0.0]], requires_grad=True)
    codes = Codes.from_topk(values, torch.tensor([[4, 1], [0, 2]]), d_sae=5)
    assert codes.to_dense().tolist() == [[0, 3, 0, 0, 1], [2, 0, 0, 0, 0]]
    (codes.to_dense() * torch.arange(10.0).view(2, 5)).sum().backward()
    assert values.grad.tolist() == [[4, 1], [5, 0]]
    assert not as_codes(codes).value.requires_grad


def test_columns_blocks_and_parts():
    acts = sparse(11, 9, 0.4, 3)
    codes = Codes.from_dense(acts)
    features = torch.tensor([7, 2, 5])
    assert torch.equal(codes.columns(features), acts[:, features])
    assert torch.equal(torch.cat(list(codes.dense_blocks(4))), acts)
    kept = codes.value > 0.5
    assert torch.equal(codes.where(kept).to_dense(), acts * (acts > 0.5))
    assert codes.shape == acts.shape
    assert len(codes) == 11
