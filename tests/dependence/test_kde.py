"""The sparse form against the formula, the formula against scikit-learn, and gradients against autograd."""

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KernelDensity

from sleave.base.errors import SleaveError
from sleave.dependence import kde
from sleave.dependence.kde import bandwidth, kde_all_pairs, kde_dense, kde_pairs


@pytest.fixture(autouse=True, scope="module")
def one_thread_each():
    """Beside other work, waiting for another thread takes longer than all else here.

    numba first: when it starts its threads, torch's number of them is set to numba's (they share OpenMP).
    """
    threads = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(1)
    torch.set_num_threads(1)
    yield
    numba.set_num_threads(threads[0])
    torch.set_num_threads(threads[1])


def codes(seed, rows, d_sae, density=0.3):
    """Codes that depend on each other, float64."""
    g = torch.Generator().manual_seed(seed)
    common = torch.randn(rows, 1, generator=g, dtype=torch.float64)
    fires = torch.rand(rows, d_sae, generator=g) + 0.2 * common.sigmoid() < density + 0.1
    return (torch.randn(rows, d_sae, generator=g, dtype=torch.float64) + common).abs() * fires


def difficult_codes(seed, rows, density):
    """Twelve columns: ordinary ones, and every kind that is not."""
    acts = codes(seed, rows, 12, density)
    acts[:, 0] = 0  # never fires
    acts[:, 1] = 3.3  # constant
    acts[:, 3] = acts[:, 2]  # a duplicate
    acts[:, 4] *= 1e3  # every point is alone
    acts[:, 5] *= 1e-12  # all points are as good as zero
    acts[:, 6] -= 0.7  # dense, of both signs
    acts[:, 7] = -acts[:, 7]
    acts[:, 8] = (acts[:, 8] > 0).double()  # ties
    acts[1:, 9] = 0  # fires once at most
    return acts


def every_pair(d_sae):
    """(i, j) with i <= j."""
    return torch.triu_indices(d_sae, d_sae)


def dense(acts, i, j, scale="absolute"):
    h = bandwidth(acts, scale=scale)
    return kde_dense(acts.t()[i], acts.t()[j], h[i], h[j])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(2, 40),
    density=st.sampled_from([0.03, 0.3, 1.0]),
    scale=st.sampled_from(["absolute", "std"]),
    blocks=st.booleans(),
)
def test_sparse_form_equals_the_formula_with_its_gradient(seed, rows, density, scale, blocks):
    acts = difficult_codes(seed, rows, density)
    i, j = every_pair(12)
    upstream = torch.randn(len(i), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        if blocks:  # small ones, sometimes of a single dense feature
            patch.setattr(kde, "BLOCK", 5)
            patch.setattr(kde, "KERNELS", 2000)
            patch.setattr(kde, "BATCH", 20)
        acts.requires_grad_()
        sparse = kde_pairs(acts, i, j, scale=scale)
        (grad,) = torch.autograd.grad(sparse @ upstream, acts)
        every = kde_all_pairs(acts.detach(), scale=scale)
    truth = dense(acts, i, j, scale)
    (true_grad,) = torch.autograd.grad(truth @ upstream, acts)
    torch.testing.assert_close(sparse, truth, atol=1e-12, rtol=0)
    size = true_grad.abs().amax(0)  # a column's gradients are of very different sizes in different columns
    error = (grad - true_grad.where(acts != 0, 0)).abs()
    assert (error <= 1e-10 * size + 1e-14 / bandwidth(acts, scale=scale).clamp(min=1e-20)).all()
    assert not grad[:, 1].any() or scale == "absolute"
    assert torch.equal(every[i, j], torch.where(i != j, sparse, 0))
    assert torch.equal(every, every.t())


def test_equals_scikit_learn():
    acts = torch.cat([difficult_codes(0, 150, 0.4), torch.randn(150, 2, dtype=torch.float64)], dim=1)
    h = bandwidth(acts)

    def log_density(*columns):
        points = np.stack([(acts[:, c] / h[c]).numpy() for c in columns], axis=1)
        return KernelDensity(kernel="gaussian", bandwidth=1, rtol=0, atol=0).fit(points).score_samples(points)

    i, j = every_pair(acts.shape[1])
    alone = [log_density(c) for c in range(acts.shape[1])]
    truth = [(log_density(a, b) - alone[a] - alone[b]).mean() for a, b in zip(i.tolist(), j.tolist(), strict=True)]
    np.testing.assert_allclose(dense(acts, i, j), truth, atol=1e-10, rtol=0)
    np.testing.assert_allclose(kde_pairs(acts, i, j), truth, atol=1e-10, rtol=0)


def test_gradcheck():
    acts = (codes(0, 7, 3, 0.9) + 0.2).requires_grad_()
    i, j = every_pair(3)
    assert torch.autograd.gradcheck(lambda a: kde_pairs(a, i, j, factor=1.0), acts)


def test_the_form_for_gpus():
    """What computes the gradient there is device-agnostic, so it can be seen to agree here."""
    acts = codes(1, 60, 5, 0.5).requires_grad_()
    i, j = every_pair(5)
    upstream = torch.rand(len(i), dtype=torch.float64)
    (grad,) = torch.autograd.grad(kde_pairs(acts, i, j) @ upstream, acts)
    h = bandwidth(acts)[:, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kde, "chunks", lambda count, width, budget: [slice(s, s + 7) for s in range(0, count, 7)])
        by_u = kde._dense_gradient((acts.detach().t() / h).contiguous(), i, j, upstream)
    torch.testing.assert_close(grad, (by_u / h).t())


def test_what_it_is_known_to_give():
    """Two independent unit Gaussians get 0.80 nats at N = 2048: the bias of the paper's formula."""
    x, y = torch.randn(2, 2048, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    columns = torch.stack([x, y, 0.6 * x + 0.8 * y, y.relu()], dim=1)
    independent, dependent, relu = kde_pairs(columns, torch.tensor([0, 0, 0]), torch.tensor([1, 2, 3])).tolist()
    assert independent == pytest.approx(0.80, abs=0.02)
    assert dependent == pytest.approx(0.91, abs=0.02)
    assert 0 < relu < independent
    scaled = columns * torch.tensor([1, 50, 1, 1])
    std = kde_all_pairs(scaled, scale="std")
    assert std[0, 1] == pytest.approx(independent, abs=0.02)
    torch.testing.assert_close(std, kde_all_pairs(columns, scale="std"))


def test_neither_the_order_of_rows_nor_of_a_pair_matters():
    acts = codes(2, 200, 6)
    i, j = every_pair(6)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    plain = kde_pairs(acts, i, j)
    torch.testing.assert_close(kde_pairs(acts[order], i, j), plain)
    torch.testing.assert_close(kde_pairs(acts, j, i), plain)


def test_the_number_of_threads_does_not_matter():
    acts = codes(7, 100, 30).requires_grad_()
    i, j = every_pair(30)

    def results():
        information = kde_pairs(acts, i, j)
        return information, *torch.autograd.grad(information.sum(), acts), kde_all_pairs(acts.detach())

    alone = results()
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    together = results()
    numba.set_num_threads(1)
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("scale", ["absolute", "std"])
def test_a_constant_feature_tells_nothing(scale):
    acts = codes(3, 50, 4)
    acts[:, 1] = 0
    acts[:, 2] = 3.3
    information = kde_all_pairs(acts, scale=scale)
    assert information[1].abs().max() == 0
    assert information[2].abs().max() < 1e-12
    assert information[0, 3] > 0


def test_one_code_far_away_by_hand():
    """Both fire in one row of N, far away: J, p and p are 1/N there, and (N-1)/N in the other rows."""
    acts = torch.zeros(10, 2)
    acts[4] = torch.tensor([100.0, 200.0])
    truth = -(0.1 * np.log(0.1) + 0.9 * np.log(0.9))
    assert kde_all_pairs(acts)[0, 1] == pytest.approx(truth, abs=1e-12)
    acts[4, 1], acts[5, 1] = 0, 200.0  # now in different rows: 8/10 of the rows are at zero
    truth = 0.2 * np.log(0.1 / (0.1 * 0.9)) + 0.8 * np.log(0.8 / 0.81)
    assert kde_all_pairs(acts)[0, 1] == pytest.approx(truth, abs=1e-12)


def test_any_dtype_is_computed_in_float64_with_a_gradient_of_its_own():
    acts = codes(4, 40, 5).bfloat16().requires_grad_()
    i, j = every_pair(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = kde_pairs(acts, i, j)
    result.sum().backward()
    assert result.dtype == torch.float64
    assert torch.equal(result, kde_pairs(acts.double(), i, j))
    assert acts.grad.dtype == torch.bfloat16


def test_no_pairs_at_all():
    acts = codes(5, 20, 3).requires_grad_()
    none = torch.zeros(0, dtype=torch.int64)
    result = kde_pairs(acts, none, none)
    result.sum().backward()
    assert result.shape == (0,)
    assert not acts.grad.any()
    assert kde_dense(acts.t()[none], acts.t()[none], acts[0, none], acts[0, none]).shape == (0,)
    assert kde_all_pairs(acts[:, :1]).tolist() == [[0.0]]


def test_progress_is_shown_when_asked_for_or_needed(capsys, monkeypatch):
    kde_all_pairs(codes(6, 20, 10))
    assert "KDE mutual information" not in capsys.readouterr().err
    kde_all_pairs(codes(6, 20, 10), progress=True)
    assert "KDE mutual information: 45/45 pairs" in capsys.readouterr().err
    monkeypatch.setattr(kde, "SHOWN_AFTER", 0.0)
    kde_all_pairs(codes(6, 20, 10))
    assert "45/45 pairs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factor": 0}, r"bandwidth's factor \(= 0\) must be above 0"),
        ({"factor": float("nan")}, r"bandwidth's factor \(= nan\)"),
        ({"scale": "sigma"}, r"`bandwidth_scale` \(= 'sigma'\) must be one of 'absolute', 'std'"),
        ({"acts": torch.rand(1, 3)}, r"`acts` has shape \(1, 3\); .*at least 2 rows"),
        ({"acts": torch.tensor([[1.0, torch.nan], [0.0, torch.inf]])}, "NaN or infinite values in 1 of 2 features"),
    ],
)
@pytest.mark.parametrize("function", [bandwidth, kde_all_pairs])
def test_refuses_with_a_message(function, arguments, message):
    with pytest.raises(SleaveError, match=message):
        function(**{"acts": torch.rand(4, 2), **arguments})
