"""Where training begins."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sleave.autoencoder.gated import GatedAutoencoder
from sleave.autoencoder.model import SparseAutoencoder
from sleave.autoencoder.settings import CommonAutoencoderSettings

NUM_SAMPLES = 8192  # rows that `data` initialisation wants: enough for a 3% quantile per feature


@torch.no_grad()
def initial_autoencoder(
    settings: CommonAutoencoderSettings, sample: Float[Tensor, "rows d_in"], generator: torch.Generator
) -> SparseAutoencoder:
    """A new autoencoder, with unit decoder rows and the encoder tied to them (Gao et al. 2024, appendix A.1).

    b_dec is the sample's mean, its geometric median (Bricken et al. 2023, "Towards Monosemanticity") or zero, and b_enc
    such that the encoder begins as that of x - b_dec.

    `random`: Gaussian directions. `data`: each decoder row is a sample row, less b_dec, scaled to norm one, and b_enc
    besides such that each feature is positive on `positive_rate` of the sample: on residual streams, whose variance
    lies in few directions, this begins far closer to the data. The rows are all different (texts that begin alike give
    equal rows, and two equal features would stay equal); if there are fewer than d_sae, random directions make up the
    rest.

    With batch norm, its running statistics are the sample's, and row i of W_enc is times the deviation that it divides
    dimension i by, so that codes begin as without it (as of the sample less its mean).

    Args:
        settings: architecture, width and method.
        sample: scaled training rows, in float32.
        generator: draws the directions, or the rows.
    """
    sae = settings.build(sample.shape[1]).to(sample.device)
    origin = _origin(settings.b_dec, sample)
    sae.b_dec.copy_(origin)
    centred = sample - origin
    if settings.initialisation == "data":
        points = centred[_different(sample)]
        order = torch.randperm(len(points), generator=generator)[: settings.d_sae]
        more = torch.randn(settings.d_sae - len(order), sample.shape[1], generator=generator)
        directions = torch.cat([points[order.to(sample.device)], more.to(sample.device)])
    else:
        directions = torch.randn(settings.d_sae, sample.shape[1], generator=generator).to(sample.device)
    sae.W_dec.copy_(torch.nn.functional.normalize(directions, dim=1))
    sae.W_enc.copy_(sae.W_dec.t())
    if sae.batch_norm is not None:
        centred = sample - sample.mean(dim=0)  # what batch norm leaves, whatever b_dec is
    if settings.initialisation == "data":
        rank = max(1, round(settings.positive_rate * len(centred)))
        strength = sae.W_dec @ centred.t()
        sae.b_enc.copy_(-strength.topk(rank, dim=1).values[:, -1])
    if sae.batch_norm is None:
        sae.b_enc.sub_(sae.W_dec @ origin)
    else:
        sae.batch_norm.track(sample, momentum=1)
        factor, _ = sae.batch_norm.affine()
        sae.W_enc.div_(factor.to(sae.W_enc)[:, None])
    if isinstance(sae, GatedAutoencoder):
        sae.b_mag.copy_(sae.b_enc)  # so that it begins as ReLU
    return sae


def _origin(kind: str, sample: Tensor) -> Tensor:
    if kind == "zeros":
        return torch.zeros_like(sample[0])
    return sample.mean(dim=0) if kind == "mean" else geometric_median(sample)


def geometric_median(
    rows: Float[Tensor, "rows d_in"], tolerance: float = 1e-5, most: int = 100
) -> Float[Tensor, " d_in"]:
    """The point with the least sum of distances to the rows, by Weiszfeld's iteration from their mean.

    Args:
        rows: the points.
        tolerance: stop when it moves by less than this share of the mean distance.
        most: or after so many iterations.

    Reference: Vardi & Zhang 2000, "The multivariate L1-median and associated data depth".
    """
    median = rows.mean(dim=0)
    for _ in range(most):
        distance = torch.linalg.vector_norm(rows - median, dim=1)
        weight = 1 / distance.clamp_min(1e-9 * float(distance.mean()) + 1e-30)  # a row may be the median itself
        moved = (weight / weight.sum()) @ rows
        step, median = float(torch.linalg.vector_norm(moved - median)), moved
        if step <= tolerance * float(distance.mean()):
            break
    return median


def _different(rows: Float[Tensor, "rows d_in"]) -> Int[Tensor, " different"]:
    """The place of each row that is not equal to an earlier one."""
    _, inverse = torch.unique(rows, dim=0, return_inverse=True)
    places = torch.arange(len(rows), device=rows.device)
    first = places.new_full((int(inverse.max()) + 1,), len(rows)).scatter_reduce(0, inverse, places, "amin")
    return first.sort().values
