"""The k strongest features of a row fire on average over the batch."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sleave.autoencoder.jumprelu import JumpReLUAutoencoder
from sleave.autoencoder.k_sparse import AUX_WEIGHT, KSparseAutoencoder
from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.errors import SleaveError
from sleave.base.ranks import current
from sleave.codes.codes import Codes
from sleave.codes.largest import largest_of_batch

# The cut of a batch is one of the largest of millions of numbers and hardly varies between batches, but falls while
# training; at SAELens's 0.01 the mean lags so far behind that after 300 steps 20 features fire in place of 32.
MOMENTUM = 0.1
UNSET = -1.0  # as dictionary_learning has it


class BatchTopKAutoencoder(KSparseAutoencoder):
    """In training, the k * batch largest positive numbers of x W_enc + b_enc fire; otherwise those above a threshold.

    The threshold is a running mean of the smallest code that fired in a batch, so that a row's codes do not depend on
    what else is in its batch. Saved, it is a JumpReLU autoencoder.

    Attributes:
        k: how many features fire on a row, on average.
        threshold: () the running threshold; -1 before the first step.

    Reference: Bussmann, Leask & Nanda 2024, "BatchTopK Sparse Autoencoders", section 2 and Eq. (5).
    """

    architecture = "batch_topk"
    threshold: Tensor

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        apply_b_dec_to_input: bool = False,
        *,
        k: float,
        aux_weight: float = AUX_WEIGHT,
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            d_in, d_sae, apply_b_dec_to_input, k=k, aux_weight=aux_weight, batch_norm=batch_norm, dropout=dropout
        )
        self.register_buffer("threshold", torch.tensor(UNSET))

    def _codes(self, x: Tensor) -> Codes | Tensor:
        if self.training:
            return self._firing(x)
        z = x @ self.W_enc + self.b_enc
        return torch.relu(z) * (z > self._set_threshold())

    def largest(self, x: Tensor) -> Codes:
        return largest_of_batch(x, self.W_enc, self.b_enc, max(1, round(self.k * len(x) * current().rows.size)))

    def _set_threshold(self) -> Tensor:
        if self.threshold < 0:
            raise SleaveError(
                "The threshold of this BatchTopK autoencoder was never set: it was not trained, or not for long. "
                "Give activations to find it: sleave.from_live(sae, sample=x), with x (rows, d_in), some thousands."
            )
        return self.threshold

    @torch.no_grad()
    def track(self, x: Float[Tensor, "batch d_in"], least: Tensor | None) -> None:
        super().track(x, least)
        if least is not None:
            self.threshold.copy_(least if self.threshold < 0 else torch.lerp(self.threshold, least, MOMENTUM))

    def folded(self, shift: Float64[Tensor, " d_sae"], factor: Float64[Tensor, " d_sae"]) -> SparseAutoencoder:
        other = JumpReLUAutoencoder(self.d_in, self.d_sae, apply_b_dec_to_input=True)
        other.threshold.copy_(self._set_threshold().cpu().double() * factor)
        return other
