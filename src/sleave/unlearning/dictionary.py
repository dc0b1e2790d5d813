"""What can be clamped: the features of an autoencoder, and of what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
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
    """

    codes: Codes
    directions: Float[Tensor, "d_sae d_in"]
    lengths: Float[Tensor, " d_sae"]
    norm: float

    @cached_property
    def rates(self) -> Float[Tensor, " d_sae"]:
        """On which share of all positions each feature fires."""
        return self.codes.fired.float() / self.codes.rows

    def rates_on(self, documents: Documents, some: Sequence[int]) -> Float[Tensor, " d_sae"]:
        """On which share of the text of some documents each feature fires."""
        wanted = torch.zeros(len(documents.contexts), dtype=torch.bool)
        wanted[list(some)] = True
        chosen = wanted[documents.document]
        entries = chosen[self.codes.row]
        fired = torch.bincount(self.codes.feature[entries], minlength=len(self.directions))
        return fired.float() / (chosen & documents.text).sum()

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
def dictionary_of(sae: SparseAutoencoder, documents: Documents, scaling: Scaling) -> Dictionary:
    """The features of an autoencoder that reads raw activations; clamps are counted in the units of its training."""
    rows = documents.text.nonzero().flatten()
    with inference(sae):
        codes = Codes.cat([as_codes(sae.codes(documents.residual[r].float())) for r in rows.split(ROWS)])
    return Dictionary(
        on_all_positions(codes, rows, len(documents.text)),
        sae.W_dec.detach().float(),
        (sae.W_dec.detach().float() * scaling.scale).norm(dim=1),
        median_norm(documents, scaling),
    )


def median_norm(documents: Documents, scaling: Scaling) -> float:
    """The median norm of the activations, in the units of training."""
    return float(scaling.apply(documents.residual[documents.text].float()).norm(dim=1).median())


def on_all_positions(codes: Codes, rows: Int64[Tensor, " rows"], positions: int) -> Codes:
    """Codes of some positions, ascending, as codes of all of them."""
    counts = torch.zeros(positions, dtype=torch.int64)
    counts[rows] = codes.start.diff()
    return Codes(codes.d_sae, torch.cat([counts.new_zeros(1), counts.cumsum(0)]), codes.feature, codes.value)
