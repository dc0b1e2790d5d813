"""Batch norm against torch's own, and dropout in the decoder's input."""

import pytest
import torch
from torch.nn.functional import dropout

from sleave.autoencoder.batch_norm import BatchNorm
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.base.errors import SleaveError

D_IN = 6


def rows(seed, count=50):
    """Rows with another mean and spread in each dimension."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, D_IN, generator=g) * torch.logspace(-1, 1, D_IN) + torch.arange(D_IN) * 3.0


@pytest.fixture
def ours():
    g = torch.Generator().manual_seed(0)
    norm = BatchNorm(D_IN)
    norm.gamma.data, norm.beta.data = torch.randn(2, D_IN, generator=g)
    return norm


@pytest.fixture
def theirs(ours):
    norm = torch.nn.BatchNorm1d(D_IN)
    norm.weight.data, norm.bias.data = ours.gamma.data.clone(), ours.beta.data.clone()
    return norm


def test_the_same_numbers_as_torch(ours, theirs):
    for seed in range(5):
        x, weight = rows(seed), rows(seed + 10)
        a, b = ours(x), theirs(x)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
        ours.track(x)
        truth = torch.autograd.grad((b * weight).sum(), [theirs.weight, theirs.bias])
        for got, expected in zip(torch.autograd.grad((a * weight).sum(), [ours.gamma, ours.beta]), truth, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    torch.testing.assert_close(ours.variance, theirs.running_var)
    x = rows(5, count=1)
    expected = theirs.eval()(x)
    torch.testing.assert_close(ours.eval()(x), expected, rtol=1e-4, atol=1e-5)
    factor, offset = ours.affine()
    assert factor.dtype == offset.dtype == torch.float64
    torch.testing.assert_close((x * factor + offset).float(), expected, rtol=1e-4, atol=1e-5)


def test_a_forward_pass_changes_nothing(ours):
    ours.track(rows(1))
    before = {name: t.clone() for name, t in ours.state_dict().items()}
    ours(rows(2))
    ours.eval()(rows(2))
    assert all(torch.equal(t, before[name]) for name, t in ours.state_dict().items())
    assert set(before) == {"gamma", "beta", "mean", "variance"}


def test_float32_under_autocast(ours):
    x = rows(1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = ours(x)
        ours.track(x)
    assert torch.equal(low, ours(x))
    torch.testing.assert_close(ours.mean, 0.1 * x.mean(dim=0))
    assert torch.equal(ours(x.bfloat16()), ours(x.bfloat16().float()))


def test_any_leading_dimensions(ours):
    x = rows(1)
    assert torch.equal(ours(x.reshape(5, 10, D_IN)).reshape(50, D_IN), ours(x))
    ours.eval()
    torch.testing.assert_close(ours(x[0]), ours(x)[0])


def test_a_constant_dimension_is_only_centred(ours):
    x = rows(1)
    x[:, 2] = 2.0
    torch.testing.assert_close(ours(x)[:, 2], ours.beta[2].expand(50))


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_rows(ours, count):
    with pytest.raises(SleaveError, match=rf"at least 2 rows in training, and was given {count}.*training.accumulat"):
        ours(rows(1, count))
    with pytest.raises(SleaveError, match="at least 2 rows"):
        ours.track(rows(1, count))
    assert ours.eval()(rows(1, count)).shape == (count, D_IN)


def test_the_decoder_reads_dropped_codes_in_training_only():
    sae = ReLUAutoencoder(D_IN, 4, dropout=0.3).requires_grad_(False)
    sae.W_enc.normal_(generator=torch.Generator().manual_seed(0))
    sae.W_dec.copy_(sae.W_enc.T)
    x = rows(1)
    acts = sae.encode(x)
    torch.manual_seed(7)
    x_hat = sae(x)
    assert torch.equal(sae.encode(x), acts)  # the codes themselves are not dropped
    torch.manual_seed(7)
    torch.testing.assert_close(x_hat, dropout(acts, 0.3) @ sae.W_dec + sae.b_dec)
    assert not torch.equal(sae(x), x_hat)
    sae.eval()
    assert torch.equal(sae(x), acts @ sae.W_dec + sae.b_dec)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_cannot_be_dropped(share):
    with pytest.raises(SleaveError, match=r"`dropout` \(= .*\) must be at least 0 and below 1"):
        ReLUAutoencoder(D_IN, 4, dropout=share)


def test_without_them_nothing_is_added():
    sae = ReLUAutoencoder(D_IN, 4)
    assert list(sae.state_dict()) == ["W_enc", "b_enc", "W_dec", "b_dec"]
    state = torch.get_rng_state()
    sae(rows(1))
    assert torch.equal(torch.get_rng_state(), state)
