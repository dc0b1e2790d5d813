"""The architecture of both papers."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from sleave.autoencoder.model import SparseAutoencoder


class ReLUAutoencoder(SparseAutoencoder):
    """f = ReLU(x W_enc + b_enc), kept sparse by the L1 norm of f.

    Reference: *Top-k feature decorrelation*, Eqs. (2), (3); Bricken et al. 2023, "Towards Monosemanticity".
    """

    architecture = "relu"

    def _codes(self, x: Tensor) -> Tensor:
        return torch.relu(x @ self.W_enc + self.b_enc)

    def folded(self, shift: Float64[Tensor, " d_sae"], factor: Float64[Tensor, " d_sae"]) -> ReLUAutoencoder:
        return ReLUAutoencoder(self.d_in, self.d_sae, apply_b_dec_to_input=True)
