"""Which fused pass a batch takes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sleave.autoencoder.k_sparse import KSparseAutoencoder
from sleave.autoencoder.model import SparseAutoencoder
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.base.ranks import current
from sleave.codes.codes import Codes
from sleave.codes.compiled import compiled
from sleave.codes.number_kernels import readable
from sleave.training.forward import Forward
from sleave.training.fused import dense, kernels, sparse

# Share of a ReLU autoencoder's codes that fire up to which passes over what fires take less time than dense products.
FEW = {torch.bfloat16: 0.05, torch.float32: 0.15}


def can_fuse(sae: SparseAutoencoder) -> bool:
    """Whether `forward` has what this autoencoder needs, if it is a whole one, in float32, on a CPU."""
    return (
        isinstance(sae, ReLUAutoencoder | KSparseAutoencoder)
        and sae.batch_norm is None
        and not sae.dropout
        and not sae.apply_b_dec_to_input
    )


def forward(
    sae: SparseAutoencoder, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_sae"] | None = None
) -> Forward:
    """What the reference gives, to rounding; in bfloat16 where autocast says so.

    Args:
        sae: one that `can_fuse`.
        x: float32.
        dead: see `SparseAutoencoder.training_pass`.
    """
    x = x.contiguous()
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    if isinstance(sae, KSparseAutoencoder):
        return _of_k_sparse(sae, x, dtype, dead)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        acts = torch.mm(sae.W_enc.t().to(dtype), x.to(dtype).t())  # (d_sae, batch)
        total, fired = compiled(kernels.activate, readable(acts), sae.b_enc)
    few = int(fired.sum()) <= FEW[dtype] * acts.numel()
    if not current().rows.all(few):  # ranks that share a batch must have codes of one form
        return dense.forward(sae, x, acts, total, fired)
    start, feature, value, *by_feature = compiled(kernels.compress, readable(acts), fired)
    codes = Codes(sae.d_sae, start, feature, value)
    codes.__dict__.update(fired=fired, by_feature=tuple(by_feature))
    return sparse.forward(sae, x, codes, dtype)


def _of_k_sparse(sae: KSparseAutoencoder, x: Tensor, dtype: torch.dtype, dead: Tensor | None) -> Forward:
    codes = sae.largest(x)
    given = sparse.forward(sae, x, codes, dtype)
    assert isinstance(given.acts, Codes)
    auxiliary = sae.auxiliary(x, x, given.acts, given.residual, dead)
    least = codes.value.min() if codes.value.numel() else None
    return Forward(given.acts, given.residual, given.mse, given.total, given.fired, x.new_zeros(()), auxiliary, least)
