"""Where training begins."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sleave.autoencoder.model import SparseAutoencoder
from sleave.autoencoder.settings import AutoencoderSettings

NUM_SAMPLES = 8192  # rows that `data` initialisation wants: enough for a 3% quantile per feature


@torch.no_grad()
def initial_autoencoder(
    settings: AutoencoderSettings, sample: Float[Tensor, "rows d_in"], generator: torch.Generator
) -> SparseAutoencoder:
    """A new autoencoder, with unit decoder rows and the encoder tied to them.

    `random`: Gaussian directions, zero biases. `data`: b_dec is the sample's mean, each decoder row is a centred
    sample row scaled to norm one, and b_enc is set so that each feature fires on `firing_rate` of the sample: on
    residual streams, whose variance lies in few directions, this begins far closer to the data. The rows are all
    different (texts that begin alike give equal rows, and two equal features would stay equal); if there are fewer than
    d_sae, random directions make up the rest.

    With batch norm, its running statistics are the sample's, and row i of W_enc is times the deviation that it divides
    dimension i by, so that codes begin as without it (with `random`, as for the sample less its mean).

    Args:
        settings: width and method.
        sample: scaled training rows, in float32.
        generator: draws the directions, or the rows.
    """
    sae = SparseAutoencoder(
        sample.shape[1], settings.d_sae, batch_norm=settings.batch_norm, dropout=settings.dropout
    ).to(sample.device)
    if settings.initialisation == "data":
        mean = sample.mean(dim=0)
        centred = sample - mean
        points = centred[_different(sample)]
        order = torch.randperm(len(points), generator=generator)[: settings.d_sae]
        more = torch.randn(settings.d_sae - len(order), sample.shape[1], generator=generator)
        directions = torch.cat([points[order.to(sample.device)], more.to(sample.device)])
        sae.b_dec.copy_(mean)
    else:
        directions = torch.randn(settings.d_sae, sample.shape[1], generator=generator).to(sample.device)
    sae.W_dec.copy_(torch.nn.functional.normalize(directions, dim=1))
    sae.W_enc.copy_(sae.W_dec.t())
    if settings.initialisation == "data":
        rank = max(1, round(settings.firing_rate * len(centred)))
        strength = sae.W_dec @ centred.t()
        threshold = strength.topk(rank, dim=1).values[:, -1]
        sae.b_enc.copy_(-threshold)
        if sae.batch_norm is None:  # batch norm takes the mean off itself
            sae.b_enc.sub_(sae.W_dec @ mean)
    if sae.batch_norm is not None:
        sae.batch_norm.track(sample, momentum=1)
        factor, _ = sae.batch_norm.affine()
        sae.W_enc.div_(factor.to(sae.W_enc)[:, None])
    return sae


def _different(rows: Float[Tensor, "rows d_in"]) -> Int[Tensor, " different"]:
    """The place of each row that is not equal to an earlier one."""
    _, inverse = torch.unique(rows, dim=0, return_inverse=True)
    places = torch.arange(len(rows), device=rows.device)
    first = places.new_full((int(inverse.max()) + 1,), len(rows)).scatter_reduce(0, inverse, places, "amin")
    return first.sort().values
