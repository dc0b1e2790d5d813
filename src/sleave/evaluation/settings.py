"""Settings of evaluation."""

from __future__ import annotations

from pydantic import Field

from sleave.base.settings import Settings


class EvaluationSettings(Settings):
    """Held-out evaluation."""

    max_rows: int = Field(default=16_384, ge=1)
    """At most so many held-out rows (tokens) are used."""
    batch_rows: int = Field(default=4096, ge=1)
    """Rows at a time; changes memory, not results."""
