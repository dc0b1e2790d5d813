"""The sparse autoencoder: x -> codes -> x_hat."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sleave.autoencoder.batch_norm import BatchNorm
from sleave.base.errors import SleaveError

ACTIVE = 1e-6  # mean code above which a feature counts as active (Top-k feature decorrelation, 5.3)


class SparseAutoencoder(nn.Module):
    """f = ReLU(x W_enc + b_enc), x_hat = f W_dec + b_dec; in training perhaps with batch norm and dropout.

    With batch norm, f = ReLU(BN(x) W_enc + b_enc), and x_hat still is of x. With dropout, `decode` reads, in training
    mode, codes of which a random share is 0 and the others are divided by 1 - dropout. `encode` returns the codes
    themselves, so that whatever is measured or penalised on codes is about what the encoder says: dropped codes would
    make two features seem to fire together more rarely than they do. Saved files have neither (see `saving.fold`).

    Attributes:
        W_enc: (d_in, d_sae).
        b_enc: (d_sae,).
        W_dec: (d_sae, d_in); its rows are the features' directions.
        b_dec: (d_in,).
        apply_b_dec_to_input: encode x - b_dec instead of x. Off in training (one product fewer); on in saved files,
            where it keeps float32 accurate although a residual stream's mean can be many of its deviations.
        batch_norm: what the encoder's input goes through, or None.
        dropout: share of the codes that the decoder does not see, in training.

    Reference: *Top-k feature decorrelation*, Eqs. (2), (3).
    """

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        apply_b_dec_to_input: bool = False,
        *,
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if d_in < 1 or d_sae < 1:
            raise SleaveError(f"`d_in` (= {d_in}) and `d_sae` (= {d_sae}) must be at least 1.")
        if not 0 <= dropout < 1:
            raise SleaveError(f"`dropout` (= {dropout}) must be at least 0 and below 1.")
        self.W_enc = nn.Parameter(torch.zeros(d_in, d_sae))
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.apply_b_dec_to_input = apply_b_dec_to_input
        self.batch_norm = BatchNorm(d_in) if batch_norm else None
        self.dropout = dropout

    @property
    def d_in(self) -> int:
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        return self.W_dec.shape[0]

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """The codes of some activations.

        Raises:
            SleaveError: the width is not d_in, or batch norm is training and there is a single row.
        """
        if x.shape[-1] != self.d_in:
            raise SleaveError(
                f"`x` has width {x.shape[-1]}, but this autoencoder reads width {self.d_in}. "
                "Give it activations of the model and layer that it was trained on."
            )
        if self.apply_b_dec_to_input:
            x = x - self.b_dec
        if self.batch_norm is not None:
            x = self.batch_norm(x)
        return torch.relu(x @ self.W_enc + self.b_enc)

    def decode(self, acts: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """The reconstruction from codes; in training mode, from those that dropout leaves.

        Raises:
            SleaveError: the width is not d_sae.
        """
        if acts.shape[-1] != self.d_sae:
            raise SleaveError(f"`acts` has width {acts.shape[-1]}, but this autoencoder has d_sae = {self.d_sae}.")
        return nn.functional.dropout(acts, self.dropout, self.training) @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """The reconstruction of some activations."""
        return self.decode(self.encode(x))
