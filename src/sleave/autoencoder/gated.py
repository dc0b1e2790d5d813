"""Whether a feature fires and how strongly, decided apart."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from sleave.autoencoder.model import SparseAutoencoder, TrainingPass
from sleave.base.ranks import current


class GatedAutoencoder(SparseAutoencoder):
    """f = H(x W_enc + b_enc) ReLU(exp(r_mag) x W_enc + b_mag).

    The gate is kept sparse by the L1 norm of ReLU(x W_enc + b_enc), and gets its gradient from reconstructing x by
    that, with the decoder held fixed; so the magnitudes are not shrunk by the L1 norm.

    Attributes:
        b_enc: (d_sae,) the gate's bias (b_gate in the paper).
        r_mag: (d_sae,) logarithm of the magnitude's share of the encoder.
        b_mag: (d_sae,) the magnitude's bias.

    Reference: Rajamanoharan et al. 2024, "Improving Dictionary Learning with Gated Sparse Autoencoders", Eqs. (6) to
    (8).
    """

    architecture = "gated"

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        apply_b_dec_to_input: bool = False,
        *,
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_in, d_sae, apply_b_dec_to_input, batch_norm=batch_norm, dropout=dropout)
        self.r_mag = nn.Parameter(torch.zeros(d_sae))
        self.b_mag = nn.Parameter(torch.zeros(d_sae))

    def _codes(self, x: Tensor) -> Tensor:
        return self._gated(x @ self.W_enc)

    def _gated(self, product: Tensor) -> Tensor:
        return (product + self.b_enc > 0) * torch.relu(product * self.r_mag.exp() + self.b_mag)

    def training_pass(self, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_sae"] | None = None) -> TrainingPass:
        product = self._encoder_input(x) @ self.W_enc
        acts = self._gated(product)
        gate = torch.relu(product + self.b_enc)
        error = current().features.added(gate @ self.W_dec.detach()) + self.b_dec.detach() - x
        auxiliary = error.float().square().sum(dim=1).mean()
        return TrainingPass(acts, self.decode(acts), gate.sum(dim=0, dtype=torch.float32).sum() / len(x), auxiliary)

    def folded(self, shift: Float64[Tensor, " d_sae"], factor: Float64[Tensor, " d_sae"]) -> GatedAutoencoder:
        other = GatedAutoencoder(self.d_in, self.d_sae, apply_b_dec_to_input=True)
        r_mag = self.r_mag.detach().cpu().double()
        other.r_mag.copy_(r_mag)
        other.b_mag.copy_((self.b_mag.detach().cpu().double() + shift * r_mag.exp()) * factor)
        return other
