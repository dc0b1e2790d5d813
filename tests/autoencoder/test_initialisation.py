import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from sleave.autoencoder.initialisation import geometric_median, initial_autoencoder
from sleave.autoencoder.settings import GatedSettings, ReLUSettings, TopKSettings


def sample(rows=4000, d_in=16):
    g = torch.Generator().manual_seed(0)
    return torch.randn(rows, d_in, generator=g) * torch.logspace(-1, 1, d_in) + 5 * torch.randn(d_in, generator=g)


def begin(x, **settings):
    sae = initial_autoencoder(ReLUSettings(**settings), x, torch.Generator().manual_seed(1))
    return sae.requires_grad_(False)


@pytest.mark.parametrize("initialisation", ["data", "random"])
def test_decoder_rows_are_unit_and_the_encoder_is_tied(initialisation):
    sae = begin(sample(), d_sae=40, initialisation=initialisation)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(40))
    assert torch.equal(sae.W_enc, sae.W_dec.T)


def test_data_points_fire_as_often_as_asked():
    x = sample()
    sae = begin(x, d_sae=40, firing_rate=0.05)
    rate = (sae.encode(x) > 0).float().mean(dim=0)
    torch.testing.assert_close(rate, torch.full((40,), 0.05), atol=0.002, rtol=0)
    torch.testing.assert_close(sae.b_dec, x.mean(dim=0))
    centred = torch.nn.functional.normalize(x - x.mean(dim=0), dim=1)
    assert float((sae.W_dec @ centred.T).amax(dim=1).min()) > 0.9999  # each is a data point


def test_rows_that_repeat_are_taken_once():
    x = sample(50).repeat(20, 1)
    sae = begin(x, d_sae=50)
    cosine = (sae.W_dec @ sae.W_dec.T).fill_diagonal_(0)
    assert float(cosine.max()) < 0.9999


def test_random_directions_make_up_for_missing_points():
    sae = begin(sample(30), d_sae=100)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(100))
    assert float((sae.W_dec @ sae.W_dec.T).fill_diagonal_(0).max()) < 0.9999


def test_the_seed_decides():
    other = initial_autoencoder(ReLUSettings(d_sae=40), sample(), torch.Generator().manual_seed(2)).W_dec
    a, b = (begin(sample(), d_sae=40).W_dec for _ in range(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("rate", [0.03, 0.2])
def test_data_points_fire_as_often_as_asked_with_batch_norm(rate, mode):
    x = sample()
    sae = begin(x, d_sae=40, firing_rate=rate, batch_norm=True).train(mode == "train")
    fires = (sae.encode(x) > 0).float().mean(dim=0)
    torch.testing.assert_close(fires, torch.full((40,), rate), atol=0.002, rtol=0)
    other = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(2))[:500]]  # a batch of its own statistics
    assert float((sae.encode(other) > 0).float().mean()) == pytest.approx(rate, rel=0.1)


def test_batch_norm_begins_with_the_same_codes():
    x = sample()
    plain, normed = begin(x, d_sae=40), begin(x, d_sae=40, batch_norm=True).eval()
    torch.testing.assert_close(normed.batch_norm.mean, x.mean(dim=0))
    torch.testing.assert_close(normed.batch_norm.variance, x.var(dim=0))
    assert torch.equal(normed.W_dec, plain.W_dec)
    torch.testing.assert_close(normed.encode(x), plain.encode(x), rtol=1e-4, atol=1e-3)
    centred = begin(x - x.mean(dim=0), d_sae=40, initialisation="random")
    random = begin(x, d_sae=40, initialisation="random", batch_norm=True).eval()
    torch.testing.assert_close(random.encode(x), centred.encode(x - x.mean(dim=0)), rtol=1e-4, atol=1e-3)


def test_the_geometric_median_is_where_distances_add_up_to_the_least():
    x = sample(300, 5).square()  # far from symmetric
    ours = geometric_median(x, tolerance=1e-9, most=10_000)
    rows = x.double().numpy()
    found = minimize(
        lambda m: np.linalg.norm(rows - m, axis=1).sum(), rows.mean(0), method="BFGS", options={"gtol": 1e-7}
    )
    torch.testing.assert_close(ours.double(), torch.from_numpy(found.x), rtol=1e-3, atol=1e-3)
    assert float((ours - x.mean(0)).norm()) > 0.01 * float(x.norm(dim=1).mean())
    line = torch.tensor([[0.0], [1.0], [5.0], [100.0], [7.0]])
    torch.testing.assert_close(geometric_median(line, 1e-9, 10_000), torch.tensor([5.0]), atol=1e-2, rtol=0)
    assert torch.equal(geometric_median(torch.ones(4, 2)), torch.ones(2))


@pytest.mark.parametrize("b_dec", ["mean", "geometric_median", "zeros"])
@pytest.mark.parametrize("initialisation", ["data", "random"])
def test_b_dec_is_where_it_is_asked_to_be_and_the_encoder_makes_up_for_it(b_dec, initialisation):
    x = sample()
    sae = begin(x, d_sae=40, b_dec=b_dec, initialisation=initialisation)
    wanted = {"mean": x.mean(0), "geometric_median": geometric_median(x), "zeros": torch.zeros(16)}[b_dec]
    torch.testing.assert_close(sae.b_dec, wanted)
    pre = x @ sae.W_enc + sae.b_enc
    centred = (x - wanted) @ sae.W_dec.t()
    offset = (pre - centred).mean(0)
    torch.testing.assert_close(pre, centred + offset, rtol=1e-4, atol=1e-3)
    if initialisation == "random":
        torch.testing.assert_close(offset, torch.zeros(40), atol=1e-3, rtol=0)


def test_every_architecture_begins_so():
    x = sample()
    relu = begin(x, d_sae=40)
    gated = initial_autoencoder(GatedSettings(d_sae=40), x, torch.Generator().manual_seed(1)).requires_grad_(False)
    torch.testing.assert_close(gated.encode(x), relu.encode(x))
    topk = initial_autoencoder(TopKSettings(d_sae=40, k=3), x, torch.Generator().manual_seed(1)).requires_grad_(False)
    torch.testing.assert_close(topk.b_dec, geometric_median(x))  # the field's default
    assert ((topk.encode(x) > 0).sum(1) <= 3).all()
