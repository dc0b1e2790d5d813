"""Settings of what training draws its batches from."""

from __future__ import annotations

from pydantic import Field, model_validator

from sleave.activations.scaling import ScalingKind
from sleave.base.settings import Settings


class BufferSettings(Settings):
    """The rolling shuffle buffer and the scaling of its rows; a context is one sequence of `context_length` tokens."""

    batch_contexts: int = Field(default=32, ge=1)
    """Batch size in contexts: a batch has batch_contexts x context_length rows (tokens)."""

    buffer_contexts: int = Field(default=2048, ge=1)
    """Size of the shuffle buffer in contexts; a store with fewer rows than that is buffered whole."""

    refresh_batches: int = Field(default=24, ge=1)
    """After this many batches, the rows that they handed out are replaced by the next ones."""

    scaling: ScalingKind = "norm"
    """How rows are scaled: "none", "norm" (one factor, so that E||x||^2 = d_in) or "standardise" (mean 0 and variance 1
    per dimension). It is folded into the weights when the autoencoder is saved."""

    @model_validator(mode="after")
    def _refresh_fits(self) -> BufferSettings:
        if self.refresh_batches * self.batch_contexts > self.buffer_contexts:
            raise ValueError(
                f"refresh_batches (= {self.refresh_batches}) x batch_contexts (= {self.batch_contexts}) must be at "
                f"most buffer_contexts (= {self.buffer_contexts}); refresh sooner or enlarge the buffer"
            )
        return self
