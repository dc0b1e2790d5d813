"""Scaling, batch norm and the decoder's norms, put into the weights."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.autoencoder.model import SparseAutoencoder


@torch.no_grad()
def fold(sae: SparseAutoencoder, shift: Float[Tensor, " d_in"], scale: Float[Tensor, " d_in"]) -> SparseAutoencoder:
    """The autoencoder that does on raw x what `sae` does on (x - shift) * scale, with unit decoder rows.

    Its reconstructions are those of `sae`, put back into raw units; its codes are those of `sae` times the norm that
    the decoder row has in raw units. TopK keeps its codes and its rows' norms as they are, since scaled codes would
    rank differently. BatchTopK becomes JumpReLU, with its threshold. Batch norm is folded in as it is in eval mode.
    Computed in float64, stored in float32.

    Raises:
        SleaveError: a threshold was never set.
    """
    W_enc, b_enc, W_dec, b_dec = (t.detach().cpu().double() for t in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec))
    shift, scale = shift.cpu().double(), scale.cpu().double()
    origin = torch.zeros_like(b_enc)  # what is added to the product x W_enc
    if sae.batch_norm is not None:
        factor, offset = sae.batch_norm.affine()
        origin += offset @ W_enc
        W_enc = W_enc * factor[:, None]
    if sae.apply_b_dec_to_input:
        origin -= b_dec @ W_enc
    origin -= (shift * scale) @ W_enc
    W_enc = W_enc * scale[:, None]
    W_dec, b_dec = W_dec / scale, b_dec / scale + shift
    origin += b_dec.float().double() @ W_enc  # the input is centred by what is stored of b_dec
    norm = W_dec.norm(dim=1) if sae.scale_free else torch.ones(sae.d_sae, dtype=torch.float64)
    norm = torch.where(norm > 0, norm, 1)
    folded = sae.folded(origin, norm)
    folded.W_enc.copy_(W_enc * norm)
    folded.b_enc.copy_((b_enc + origin) * norm)
    folded.W_dec.copy_(W_dec / norm[:, None])
    folded.b_dec.copy_(b_dec)
    return folded.requires_grad_(False).eval()
