"""BatchTopK whose first features reconstruct by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from sleave.autoencoder.batch_topk import BatchTopKAutoencoder
from sleave.autoencoder.k_sparse import AUX_WEIGHT
from sleave.base.errors import SleaveError
from sleave.codes.codes import Codes
from sleave.codes.products import times


class MatryoshkaAutoencoder(BatchTopKAutoencoder):
    """The loss is the sum of the squared errors of nested dictionaries, each the first so many features.

    So general features come first, and are not absorbed into special ones, which would leave the smaller dictionaries
    without them. The codes are those of BatchTopK over the whole dictionary.

    Attributes:
        widths: how many features each nested dictionary has, ascending; the last is d_sae.

    Reference: Bussmann, Nabeshima, Karvonen & Nanda 2025, "Learning Multi-Level Features with Matryoshka Sparse
    Autoencoders", section 3.
    """

    architecture = "matryoshka"

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        apply_b_dec_to_input: bool = False,
        *,
        k: float,
        widths: Sequence[int],
        aux_weight: float = AUX_WEIGHT,
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            d_in, d_sae, apply_b_dec_to_input, k=k, aux_weight=aux_weight, batch_norm=batch_norm, dropout=dropout
        )
        if not widths or widths[-1] != d_sae or any(a >= b for a, b in pairwise((0, *widths))):
            raise SleaveError(f"`widths` (= {list(widths)}) must ascend, from 1 at least to d_sae (= {d_sae}).")
        self.widths = tuple(widths)

    def auxiliary(self, x: Tensor, read: Tensor, codes: Codes, residual: Tensor, dead: Tensor | None) -> Tensor:
        aux_k = super().auxiliary(x, read, codes, residual, dead)
        inner: Tensor = self.b_dec
        total = x.new_zeros(()) if aux_k is None else aux_k
        for first, last in pairwise((0, *self.widths[:-1])):
            level = codes.where((codes.feature >= first) & (codes.feature < last))
            inner = inner + times(level, self.W_dec)
            total = total + (inner - x).square().sum(dim=1).mean()
        return total
