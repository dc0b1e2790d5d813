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
