"""Whether two libraries' autoencoders are the same function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

D_IN, D_SAE, K = 12, 40, 5


def residual_stream(rows: int = 400, seed: int = 0) -> Tensor:
    """Rows of which the mean is many times the deviations, as a residual stream has them."""
    generator = torch.Generator().manual_seed(seed)
    mean = 50 * torch.randn(D_IN, generator=torch.Generator().manual_seed(99))
    return mean + torch.randn(rows, D_IN, generator=generator) * torch.logspace(-0.5, 0.5, D_IN)


@torch.no_grad()
def randomise(module: Any, scale: float = 1.0) -> Any:
    """Random parameters that suit `residual_stream` times `scale`: b_dec is about its mean, so that features fire.

    Thresholds and k are left as they are. Norms of decoder rows differ by a factor of several.
    """
    generator = torch.Generator().manual_seed(7)
    mean = residual_stream().mean(dim=0) * scale
    for name, p in module.named_parameters():
        if "threshold" not in name:
            p.copy_(
                torch.randn(p.shape, generator=generator)
                * (0.3 if p.ndim == 1 else torch.rand(p.shape, generator=generator))
            )
        if name in ("b_dec", "bias", "decoder_bias", "decoder.bias"):
            p.add_(mean)
    return module.requires_grad_(False)


@torch.no_grad()
def assert_same(ours: Any, codes: Tensor, x_hat: Tensor, x: Tensor, tolerance: float = 2e-5) -> None:
    """The same codes and reconstructions to rounding, and exactly the same features fire.

    Args:
        ours: sleave's, of raw x.
        codes: (rows, d_sae) of the other library.
        x_hat: (rows, d_in) of the other library.
        x: raw activations.
        tolerance: relative to the largest code, and to x.
    """
    mine = ours.encode(x)
    assert not ours.training
    assert not any(p.requires_grad for p in ours.parameters())
    assert ours.W_enc.stride() == (1, D_IN)  # feature-major, as the kernels want it
    assert 0 < float((codes > 0).float().mean()) < 0.9
    assert torch.equal(mine > 0, codes > 0)
    assert float((mine - codes).abs().max()) <= tolerance * float(codes.abs().max())
    assert float((ours(x) - x_hat).abs().max()) <= tolerance * float(x.abs().max())
