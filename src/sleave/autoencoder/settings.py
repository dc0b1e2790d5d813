"""Settings of the autoencoder."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sleave.base.settings import Settings


class AutoencoderSettings(Settings):
    """The sparse autoencoder and how it begins."""

    kind: Literal["relu"] = "relu"
    """Architecture. `relu`: f = ReLU(x W_enc + b_enc), the papers'."""
    d_sae: int = Field(ge=2)
    """How many features the dictionary has."""
    initialisation: Literal["data", "random"] = "data"
    """Decoder rows at the start: `data` points (centred, unit norm) or `random` directions. The encoder is tied to
    them at the start, either way."""
    firing_rate: float = Field(default=0.03, gt=0, lt=1)
    """Share of rows on which each feature fires at the start (sets b_enc; only for `data`)."""
    batch_norm: bool = False
    """Normalise what the encoder reads, per dimension, by the batch's statistics (MI-Ortho's); what is reconstructed
    stays as it is. The saved autoencoder has it folded in, with running statistics. With training.accumulation, each
    part of a batch is normalised by its own."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the codes that the decoder does not see in training (MI-Ortho's: 0.1); the others are divided by 1 -
    dropout. Sparsity, constraint and statistics of firing are of all codes, since they are about what the encoder
    says; the squared error of training is that with dropout."""
