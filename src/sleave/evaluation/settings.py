"""Settings of the figures on held-out rows."""

from __future__ import annotations

from pydantic import Field

from sleave.base.settings import Settings


class HeldoutSettings(Settings):
    """Figures on held-out rows."""

    max_rows: int = Field(default=16_384, ge=1)
    """At most so many held-out rows (tokens) are used."""
    batch_rows: int = Field(default=4096, ge=1)
    """Rows at a time; changes memory, not results."""
    groups: int = Field(default=10, ge=1)
    """Into how many groups documents are put, for intervals: each figure is computed anew without each; 1 for none."""
