"""Settings of the constraint that keeps features apart."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sleave.base.settings import Settings
from sleave.dependence.correlation import Measure
from sleave.penalties.orthogonality import FullOrthogonality, SelectiveOrthogonality
from sleave.penalties.penalty import Penalty


class NoConstraint(Settings):
    """No constraint: reconstruction and sparsity alone."""

    kind: Literal["none"] = "none"
    """Which constraint: `none`, `selective` or `full`. Changing it starts its section from that kind's defaults."""

    def build(self) -> Penalty | None:
        """The penalty that these settings describe: none."""
        return None


class SelectiveConstraint(Settings):
    """Selective orthogonality: push apart only the most correlated pairs."""

    kind: Literal["selective"] = "selective"
    """Which constraint: `none`, `selective` or `full`. Changing it starts its section from that kind's defaults."""
    weight: float = Field(default=0.1, ge=0)
    """What the sum of C_ij^2 over the pairs is multiplied by (the paper's lambda_2)."""
    warmup_steps: int = Field(default=0, ge=0)
    """The weight rises linearly from 0 over so many steps."""
    top: float = Field(default=0.001, gt=0, le=1)
    """Share of all P pairs that is pushed apart, zeros counted; 0.001 is the paper's 0.1%."""
    refresh: int = Field(default=1, ge=1)
    """Choose the pairs anew every so many steps."""
    window: int = Field(default=1, ge=1)
    """Choose by the correlation pooled over the last so many batches."""
    measure: Measure = "cosine"
    """`cosine` (uncentred, the paper's) or `pearson`."""
    min_coactivations: int = Field(default=0, ge=0)
    """Leave out pairs that fire together in fewer rows of the window than this."""

    def build(self) -> Penalty:
        """The penalty that these settings describe."""
        return SelectiveOrthogonality(
            self.top, self.weight, self.refresh, self.window, self.measure, self.min_coactivations
        )


class FullConstraint(Settings):
    """Full orthogonality: push apart all pairs. The baseline."""

    kind: Literal["full"] = "full"
    """Which constraint: `none`, `selective` or `full`. Changing it starts its section from that kind's defaults."""
    weight: float = Field(default=0.1, ge=0)
    """What the sum of C_ij^2 over all pairs is multiplied by."""
    warmup_steps: int = Field(default=0, ge=0)
    """The weight rises linearly from 0 over so many steps."""
    measure: Measure = "cosine"
    """`cosine` (uncentred, the paper's) or `pearson`."""

    def build(self) -> Penalty:
        """The penalty that these settings describe."""
        return FullOrthogonality(self.weight, self.measure)


ConstraintSettings = Annotated[NoConstraint | SelectiveConstraint | FullConstraint, Field(discriminator="kind")]
