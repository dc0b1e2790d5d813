"""What can be clamped: the features of an autoencoder, and of what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from sleave.activations.scaling import Scaling
from sleave.autoencoder.model import SparseAutoencoder, inference
from sleave.codes.codes import Codes, as_codes
from sleave.unlearning.documents import Change, Documents

ROWS = 4096  # that are encoded at once


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Features on all positions of some documents.

    Attributes:
        codes: (positions, d_sae); nothing fires where nothing may be changed.
        directions: (d_sae, d_in) what one unit of each code adds to the activations.
        lengths: (d_sae,) the norms of those, in the units that clamps are counted in.
        norm: the median norm of the activations in those units.
        rates: (d_sae,) on which share of the training documents' text each fires.
    """

    codes: Codes
    directions: Float[Tensor, "d_sae d_in"]
    lengths: Float[Tensor, " d_sae"]
    norm: float
    rates: Float[Tensor, " d_sae"]

    def rates_on(self, documents: Documents, some: Sequence[int]) -> Float[Tensor, " d_sae"]:
        """On which share of the text of some documents each feature fires."""
        return rates(self.codes, documents.rows(some))

    def clamped(self, features: Int64[Tensor, " n"], norms: float, absolute: float | None = None) -> Change:
        """What it takes to set some features' codes to a negative value wherever they fire, the error kept.

        x' = x + sum_i (-m / |w_i| - f_i) w_i over the features i that fire: each then contributes -m along its unit
        direction in place of f_i w_i.

        Args:
            features: which ones.
            norms: m, in median norms of the activations.
            absolute: m, in units of the activations themselves (in which the directions then have to be unit length).

        Reference: Farrell, Lau & Conmy 2024, arXiv 2410.19278, for clamping to a negative value; Karvonen et al. 2025,
        SAEBench, arXiv 2503.09532, for the reconstruction error that is kept.
        """
        start, order = self.codes.by_feature
        entries = torch.cat([order[start[f] : start[f + 1]] for f in features.tolist()])
        feature = self.codes.feature[entries]
        lengths = self.lengths if absolute is None else self.directions.norm(dim=1)
        to = -(norms * self.norm if absolute is None else absolute) / lengths.clamp_min(1e-12)
        position, place = self.codes.row[entries].unique(return_inverse=True)
        step = (to[feature] - self.codes.value[entries])[:, None] * self.directions[feature]
        delta = torch.zeros(len(position), self.directions.shape[1]).index_add(0, place, step)
        return Change(position, delta)


@torch.no_grad()
def dictionary_of(sae: SparseAutoencoder, documents: Documents, scaling: Scaling, train: Sequence[int]) -> Dictionary:
    """The features of an autoencoder that reads raw activations.

    Args:
        sae: the autoencoder.
        documents: all documents.
        scaling: from raw activations to the units of training, in which clamps are counted.
        train: the documents that tell the median norm of the activations, and how often features fire.
    """
    text, own = documents.text.nonzero().flatten(), documents.rows(train)
    with inference(sae):
        codes = Codes.cat([as_codes(sae.codes(documents.residual[r].float())) for r in text.split(ROWS)])
    codes = on_all_positions(codes, text, len(documents.text))
    directions = sae.W_dec.detach().float()
    norm = scaling.apply(documents.residual[own].float()).norm(dim=1).median()
    return Dictionary(codes, directions, (directions * scaling.scale).norm(dim=1), float(norm), rates(codes, own))


def rates(codes: Codes, rows: Bool[Tensor, " positions"]) -> Float[Tensor, " d_sae"]:
    """On which share of some rows each feature fires."""
    fired = torch.bincount(codes.feature[rows[codes.row]], minlength=codes.d_sae)
    return fired.float() / rows.sum()


def on_all_positions(codes: Codes, rows: Int64[Tensor, " rows"], positions: int) -> Codes:
    """Codes of some positions, ascending, as codes of all of them."""
    counts = torch.zeros(positions, dtype=torch.int64)
    counts[rows] = codes.start.diff()
    return Codes(codes.d_sae, torch.cat([counts.new_zeros(1), counts.cumsum(0)]), codes.feature, codes.value)
