"""The k strongest features of each row fire."""

from __future__ import annotations

from jaxtyping import Float64
from torch import Tensor

from sleave.autoencoder.k_sparse import KSparseAutoencoder
from sleave.codes.codes import Codes
from sleave.codes.largest import largest_of_rows


class TopKAutoencoder(KSparseAutoencoder):
    """f = the k largest positive numbers of each row of x W_enc + b_enc; no sparsity term is needed.

    Reference: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", Eq. (2).
    """

    architecture = "topk"
    scale_free = False  # the k largest would be others
    whole_k = True

    def _codes(self, x: Tensor) -> Codes:
        return self._firing(x)

    def largest(self, x: Tensor) -> Codes:
        return largest_of_rows(x, self.W_enc, self.b_enc, int(self.k))

    def folded(self, shift: Float64[Tensor, " d_sae"], factor: Float64[Tensor, " d_sae"]) -> TopKAutoencoder:
        return TopKAutoencoder(self.d_in, self.d_sae, apply_b_dec_to_input=True, k=self.k, aux_weight=self.aux_weight)
