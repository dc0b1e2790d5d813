"""What architectures of which k features fire have in common: no sparsity term, and AuxK for dead features."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from sleave.autoencoder.model import SparseAutoencoder, TrainingPass
from sleave.base.errors import SleaveError
from sleave.base.ranks import current
from sleave.codes.codes import Codes
from sleave.codes.largest import largest_of_rows
from sleave.codes.products import encoded, times

AUX_WEIGHT = 1 / 32


class KSparseAutoencoder(SparseAutoencoder):
    """In training, codes are held as what fires, and so are their gradients: nothing of (batch, d_sae) is kept.

    Dead features are revived by AuxK: the squared error of reconstructing the residual x - x_hat from the d_in / 2
    strongest dead features, times aux_weight (and times their share of d_in / 2, if there are fewer).

    Attributes:
        k: how many features fire on a row.
        whole_k: whether that must be a whole number.
        aux_weight: what AuxK is multiplied by.

    Reference: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", appendices A.2 and B.1.
    """

    whole_k: ClassVar[bool] = False

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
        super().__init__(d_in, d_sae, apply_b_dec_to_input, batch_norm=batch_norm, dropout=dropout)
        if not 0 < k <= d_sae or (self.whole_k and k != int(k)):
            whole = "a whole number " * self.whole_k
            raise SleaveError(
                f"`k` (= {k}) must be {whole}above 0 and at most d_sae (= {d_sae}): how many features fire on a row."
            )
        if not aux_weight >= 0:
            raise SleaveError(f"`aux_weight` (= {aux_weight}) must be at least 0.")
        self.k = k
        self.aux_weight = aux_weight

    def training_pass(self, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_sae"] | None = None) -> TrainingPass:
        read = self._encoder_input(x)
        codes = self._firing(read)
        seen = self._left_by_dropout(codes)
        x_hat = current().features.added(times(seen, self.W_dec)) + self.b_dec
        auxiliary = self.auxiliary(x, read, seen, (x_hat - x).detach(), dead)
        least = codes.value.detach().min() if codes.value.numel() else None
        return TrainingPass(codes, x_hat, x_hat.new_zeros(()), auxiliary, least)

    def _firing(self, x: Tensor) -> Codes:
        """What fires in training, of what the encoder reads; differentiable."""
        return encoded(self.largest(x), x, self.W_enc, self.b_enc)

    def largest(self, x: Float[Tensor, "batch d_in"]) -> Codes:
        """The same without a gradient."""
        raise NotImplementedError

    def auxiliary(
        self,
        x: Float[Tensor, "batch d_in"],
        read: Float[Tensor, "batch d_in"],
        codes: Codes,
        residual: Float[Tensor, "batch d_in"],
        dead: Bool[Tensor, " d_sae"] | None,
    ) -> Tensor | None:
        """What is added to the loss.

        Args:
            x: the rows.
            read: what the encoder makes codes of.
            codes: what the decoder sees.
            residual: x_hat - x, without a gradient.
            dead: which features count as dead.
        """
        return self._aux_k(read, residual, dead)

    def _aux_k(self, x: Tensor, residual: Tensor, dead: Tensor | None) -> Tensor | None:
        features = current().features
        count = 0 if dead is None or self.aux_weight == 0 else int(features.sum(dead.sum()))
        if dead is None or not count:
            return None
        number = dead.nonzero().flatten()
        W_enc, b_enc = self.W_enc.t().index_select(0, number).t(), self.b_enc.index_select(0, number)
        most = max(1, self.d_in // 2)
        codes = encoded(largest_of_rows(x, W_enc, b_enc, most), x, W_enc, b_enc)
        error = features.added(times(codes, self.W_dec.index_select(0, number))) + residual
        return self.aux_weight * min(1.0, count / most) * error.square().sum(dim=1).mean()
