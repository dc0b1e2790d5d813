"""Autoencoders trained in a moment on clustered activations, and copies of their features planted into them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sleave.autoencoder.jumprelu import JumpReLUAutoencoder
from sleave.autoencoder.model import SparseAutoencoder
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.autoencoder.topk import TopKAutoencoder

D_IN, D_SAE = 32, 96
ARCHITECTURES: dict[str, Callable[[int], SparseAutoencoder]] = {
    "relu": lambda d_sae: ReLUAutoencoder(D_IN, d_sae, True),
    "topk": lambda d_sae: TopKAutoencoder(D_IN, d_sae, True, k=8),
    "jumprelu": lambda d_sae: JumpReLUAutoencoder(D_IN, d_sae, True, threshold=0.3),
}


def activations(rows: int = 4000, seed: int = 0) -> Tensor:
    """Sums of a few of 60 directions, round a common centre, with a little noise."""
    g = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(60, D_IN, generator=torch.Generator().manual_seed(9)), dim=1)
    strength = torch.rand(rows, 60, generator=g) * 4 + 1
    present = torch.rand(rows, 60, generator=g) < torch.linspace(0.002, 0.15, 60)
    return (strength * present) @ directions + 0.1 * torch.randn(rows, D_IN, generator=g) + 3


def trained(architecture: str, steps: int = 150) -> SparseAutoencoder:
    """An autoencoder that reads `activations`."""
    torch.manual_seed(0)
    x = activations(2048, seed=1)
    sae = ARCHITECTURES[architecture](D_SAE)
    with torch.no_grad():
        sae.b_dec.copy_(x.mean(0))
        sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(D_SAE, D_IN), dim=1))
        sae.W_enc.copy_(sae.W_dec.t())
    optimizer = torch.optim.Adam(sae.parameters(), lr=3e-3)
    for step in range(steps):
        batch = x[torch.randint(len(x), (256,), generator=torch.Generator().manual_seed(step))]
        out = sae.training_pass(batch)
        sparsity = 0.0 if architecture == "topk" else sae.encode(batch).sum(1).mean()
        loss = (out.x_hat - batch).square().sum(1).mean() + 3.0 * sparsity
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
    return sae.requires_grad_(False).eval()


def rotated(directions: Tensor, cosine: float, seed: int) -> Tensor:
    """Rows turned towards random orthogonal directions, their norms kept."""
    g = torch.Generator().manual_seed(seed)
    norm = directions.norm(dim=1, keepdim=True)
    unit = directions / norm
    other = torch.randn(unit.shape, generator=g)
    other = torch.nn.functional.normalize(other - (other * unit).sum(1, keepdim=True) * unit, dim=1)
    return norm * (cosine * unit + (1 - cosine**2) ** 0.5 * other)


def with_copies(
    sae: SparseAutoencoder, of: Tensor, cosine: float = 1.0, scale: float = 1.0, seed: int = 0
) -> SparseAutoencoder:
    """The autoencoder with copies of some features appended, turned (to a cosine) and scaled (codes times `scale`)."""
    larger = ARCHITECTURES[sae.architecture](sae.d_sae + len(of))
    own = dict(sae.named_parameters())
    encoder = scale * rotated(sae.W_enc.t()[of], cosine, seed)
    decoder = rotated(sae.W_dec[of], cosine, seed + 1) / scale
    with torch.no_grad():
        for name, parameter in larger.named_parameters():
            if name == "W_enc":
                parameter.copy_(torch.cat([own[name], encoder.t()], dim=1))
            elif name == "W_dec":
                parameter.copy_(torch.cat([own[name], decoder]))
            elif name == "b_dec":
                parameter.copy_(own[name])
            else:  # b_enc, threshold: by feature
                parameter.copy_(torch.cat([own[name], scale * own[name][of]]))
    return larger.requires_grad_(False).eval()
