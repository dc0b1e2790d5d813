import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sleave.codes import largest
from sleave.codes.largest import largest_of_batch, largest_of_rows


def matrices(rows, d_in, d_sae, seed, coarse=False):
    g = torch.Generator().manual_seed(seed)
    if coarse:  # many ties
        made = [torch.randint(-2, 3, shape, generator=g).float() for shape in ((rows, d_in), (d_in, d_sae), (d_sae,))]
    else:
        made = [torch.randn(shape, generator=g) for shape in ((rows, d_in), (d_in, d_sae), (d_sae,))]
    return made


def by_sorting(pre, k):
    """Positive numbers, the larger first and of equal ones the earlier."""
    order = pre.argsort(dim=1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(pre).scatter(1, order, pre.gather(1, order)).relu()


cases = {
    "rows": st.integers(1, 6),
    "d_sae": st.integers(2, 150),
    "seed": st.integers(0, 999),
    "coarse": st.booleans(),
    "numbers": st.sampled_from([1, 300, 1 << 20]),
}


@settings(max_examples=60, deadline=None)
@given(**cases, k=st.integers(1, 20))
def test_rows(rows, d_sae, seed, coarse, numbers, k):
    x, W, b = matrices(rows, 3, d_sae, seed, coarse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(largest, "NUMBERS", numbers)
        patch.setattr(largest, "ROWS", 1)
        codes = largest_of_rows(x, W, b, k)
    # one row at a time, as a product of other shape may be rounded otherwise
    pre = torch.cat([row @ W for row in x.split(max(1, numbers // d_sae))]) + b
    assert torch.equal(codes.to_dense() > 0, by_sorting(pre, k) > 0)
    torch.testing.assert_close(codes.to_dense(), by_sorting(pre, k))
    assert all(part.tolist() == sorted(part.tolist()) for part in codes.feature.split(codes.start.diff().tolist()))


@settings(max_examples=60, deadline=None)
@given(**cases, count=st.integers(1, 60))
def test_batch(rows, d_sae, seed, coarse, numbers, count):
    x, W, b = matrices(rows, 3, d_sae, seed, coarse)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(largest, "NUMBERS", numbers)
        patch.setattr(largest, "ROWS", 1)
        codes = largest_of_batch(x, W, b, count)
    pre = torch.cat([row @ W for row in x.split(max(1, numbers // d_sae))]) + b
    wanted = by_sorting(pre.view(1, -1), count).view_as(pre)
    assert torch.equal(codes.to_dense() > 0, wanted > 0)
    torch.testing.assert_close(codes.to_dense(), wanted)


def test_the_way_of_other_devices_is_the_same():
    x, W, b = matrices(40, 3, 100, 0, coarse=True)
    rows, above = largest.reference_rows(x @ W + b, 7), largest.reference_above(x @ W + b, 1.0)
    assert torch.equal(rows.to_dense(), largest_of_rows(x, W, b, 7).to_dense())
    assert torch.equal(above.to_dense(), largest._above(x @ W, b, 1.0).to_dense())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_decides_what_fires_and_rounds_no_value(dtype):
    x, W, b = matrices(64, 32, 500, 1)
    with torch.autocast("cpu", dtype):
        codes = largest_of_rows(x, W, b, 8)
        batch = largest_of_batch(x, W, b, 8 * 64)
    exact = x @ W + b
    for c in (codes, batch):
        torch.testing.assert_close(c.value, exact[c.row, c.feature])
        assert c.value.min() > 0
    reduced = (x.to(dtype) @ W.to(dtype)).float() + b
    assert torch.equal(codes.to_dense() > 0, by_sorting(reduced, 8) > 0)


def test_fewer_positive_numbers_than_asked_for():
    x, W, b = torch.ones(2, 1), torch.tensor([[1.0, -1.0, 0.0, 2.0]]), torch.zeros(4)
    assert largest_of_rows(x, W, b, 3).to_dense().tolist() == [[1, 0, 0, 2]] * 2
    assert largest_of_batch(x, W, b, 7).to_dense().tolist() == [[1, 0, 0, 2]] * 2
    assert len(largest_of_batch(x, -W.abs(), b, 7).value) == 0


@pytest.mark.parametrize(("d_sae", "rows"), [(0, 1 << 22), (2560, 1638), (65_536, 512), (1 << 20, 64), (1 << 28, 1)])
def test_rows_at_once(d_sae, rows):
    """As many as fit a cache, but 512, and no more than 64 million numbers."""
    assert largest.rows_at_once(d_sae) == rows
