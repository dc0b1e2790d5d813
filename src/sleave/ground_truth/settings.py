"""Settings of training on known features."""

from __future__ import annotations

from pydantic import Field

from sleave.base.settings import Settings


class GroundTruthSettings(Settings):
    """The run's architecture and constraint, trained on synthetic activations whose features are known."""

    seeds: int = Field(default=3, ge=2)
    """So many synthetic models, and so many autoencoders of each kind; the intervals are over them."""
    steps: int = Field(default=1500, ge=1)
    """How many updates each."""
