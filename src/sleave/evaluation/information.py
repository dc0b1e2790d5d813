"""How much the codes of two features tell about each other, over all P pairs."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from sleave.codes.codes import Codes, as_codes
from sleave.dependence.mutual_information import mutual_information

NOTICEABLE = 0.01  # nats


@dataclass(frozen=True)
class InformationResult:
    """Mutual information, in nats, over all P = d_sae (d_sae - 1) / 2 pairs, less what chance alone would give.

    Attributes:
        mean, p999, peak: of codes, zero an atom of its own and active values in at most 16 bins.
        activity_noticeable: share of pairs of which knowing whether one fires tells more than 0.01 nats of the other.
    """

    mean: float
    p999: float
    peak: float
    activity_noticeable: float


class Information:
    """Accumulates codes, keeping only what fires."""

    def __init__(self) -> None:
        self._codes: list[Codes] = []

    def update(self, acts: Float[Tensor, "batch d_sae"] | Codes) -> None:
        """Add a batch."""
        if len(acts):
            self._codes.append(as_codes(acts))

    def compute(self) -> InformationResult:
        """The result so far."""
        codes = Codes.cat(self._codes)
        scores = mutual_information(codes)
        share = mutual_information(codes, "activity").share_above(NOTICEABLE)
        return InformationResult(scores.mean(), scores.quantile(0.999), scores.peak(), share)
