from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from sklearn.metrics.pairwise import cosine_similarity

from sleave.base.errors import SleaveError
from sleave.evaluation.reconstruction import Reconstruction


def measure(x, x_hat, cuts=()):
    r = Reconstruction(x.shape[1])
    for part, part_hat in zip(x.tensor_split(list(cuts)), x_hat.tensor_split(list(cuts)), strict=True):
        r.update(part, part_hat)
    return r.compute()


def test_by_hand():
    x = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    x_hat = torch.tensor([[1.0, 0.0], [2.0, 2.0]])
    result = measure(x, x_hat)
    assert result.mse == 2.5  # (1 + 4) / 2
    assert result.mse_per_dimension == 1.25
    assert result.fvu == 0.5  # variance 1 + 4
    assert result.explained_variance == 0.5


def residual_stream(rows=2000, d_in=7, seed=0):
    """Rows whose mean is 3000 deviations."""
    g = torch.Generator().manual_seed(seed)
    std = torch.logspace(-1, 1, d_in)
    mean = 3000 * std
    x = mean + std * torch.randn(rows, d_in, generator=g)
    return x, x + 0.3 * std * torch.randn(rows, d_in, generator=g)


def test_explained_variance_is_that_of_scikit_learn_far_from_zero():
    x, x_hat = residual_stream()
    truth = r2_score(x.double(), x_hat.double(), multioutput="variance_weighted")
    result = measure(x, x_hat, range(0, 2000, 300))
    assert 0.8 < truth < 0.95
    assert result.explained_variance == pytest.approx(truth, abs=1e-6)
    assert result.fvu + result.explained_variance == 1
    assert result.mse == pytest.approx((x_hat.double() - x.double()).square().sum(1).mean().item(), rel=1e-6)
    assert result.mse_per_dimension == pytest.approx(result.mse / 7)


def test_a_bad_reconstruction_explains_less_than_nothing():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    truth = r2_score(x, -x, multioutput="variance_weighted")
    assert measure(x, -x).explained_variance == pytest.approx(truth, rel=1e-5)
    assert truth < -2


@settings(max_examples=30, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=6).map(sorted), seed=st.integers(0, 100))
def test_any_split_gives_the_same(cuts, seed):
    x, x_hat = residual_stream(60, 4, seed)
    whole, parts = measure(x, x_hat), measure(x, x_hat, cuts)
    assert asdict(parts) == pytest.approx(asdict(whole), rel=1e-9)


def test_cosine_is_that_of_scikit_learn_and_norms_are_numpys():
    x, x_hat = (torch.randn(80, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    x_hat = x + 0.5 * x_hat
    result = measure(x, x_hat, (3, 40))
    assert result.cosine == pytest.approx(cosine_similarity(x.double(), x_hat.double()).diagonal().mean(), rel=1e-9)
    ratio = np.linalg.norm(x_hat.double(), axis=1) / np.linalg.norm(x.double(), axis=1)
    assert result.norm_ratio == pytest.approx(ratio.mean(), rel=1e-9)


def test_rows_that_are_zero():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 2.0]])
    x_hat = torch.tensor([[1.0, 0.0], [6.0, 8.0], [0.0, 0.0]])
    result = measure(x, x_hat)
    assert result.cosine == pytest.approx(1 / 3)
    assert result.norm_ratio == pytest.approx((2 + 0) / 2)  # of the two rows that have a direction


def test_parts_put_together_are_the_whole():
    x, x_hat = residual_stream(90, 4)
    parts = []
    for part, part_hat in zip(x.split(40), x_hat.split(40), strict=True):
        parts.append(Reconstruction(4))
        parts[-1].update(part, part_hat)
    assert asdict(Reconstruction.of_all(parts).compute()) == pytest.approx(asdict(measure(x, x_hat)), rel=1e-9)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_nothing_to_explain(rows):
    with pytest.raises(SleaveError, match=f"{rows} held-out rows without any variance"):
        measure(torch.ones(rows, 3), torch.zeros(rows, 3))
