"""How much the codes of two features tell about each other, over all P pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from sleave.codes.codes import Codes, as_codes
from sleave.dependence.atoms import phi
from sleave.dependence.mutual_information import mutual_information
from sleave.dependence.scores import PairScores
from sleave.evaluation.all_pairs import QUANTILES

NOTICEABLE, STRONG = 0.01, 0.05  # nats
REDUNDANT = 0.1  # of the smaller entropy


@dataclass(frozen=True)
class InformationResult:
    """Mutual information, in nats, over all P = d_sae (d_sae - 1) / 2 pairs, less what chance alone would give.

    Attributes:
        mean, p50, p90, p99, p999, p9999, peak: of codes, zero an atom of its own and active values in at most 16 bins:
            the mean, quantiles (0.5 to 0.9999) and the largest.
        noticeable, strong: share of pairs with more than 0.01 and 0.05 nats.
        activity_noticeable, activity_strong: share of pairs of which knowing whether one fires tells more than so many
            nats of whether the other does.
        activity_redundant: share of pairs of which the latter (nothing subtracted) is more than 10% of the smaller of
            the two entropies.
    """

    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    p9999: float
    peak: float
    noticeable: float
    strong: float
    activity_noticeable: float
    activity_strong: float
    activity_redundant: float


class Information:
    """Accumulates codes, keeping only what fires."""

    def __init__(self) -> None:
        self._codes: list[Codes] = []

    def update(self, acts: Float[Tensor, "batch d_sae"] | Codes) -> None:
        """Add a batch."""
        if len(acts):
            self._codes.append(as_codes(acts))

    def compute(self) -> InformationResult:
        """The result so far.

        Raises:
            SleaveError: fewer than two rows or features, or not enough memory.
        """
        codes = Codes.cat(self._codes)
        scores, activity = mutual_information(codes), mutual_information(codes, "activity")
        figures = (
            scores.mean(),
            *scores.quantiles(*QUANTILES),
            scores.peak(),
            *(kind.share_above(nats) for kind in (scores, activity) for nats in (NOTICEABLE, STRONG)),
            _normalized(codes, activity).share_above(REDUNDANT),
        )
        return InformationResult(*figures)


def _normalized(codes: Codes, activity: PairScores) -> PairScores:
    """The activity's information of all pairs as a share of the smaller entropy."""
    fired = codes.fired
    score = normalized_information(codes.rows, fired[activity.i], fired[activity.j], activity.together)
    counts = fired.unique()  # ascending, as groups are numbered
    size = len(counts)
    a, b = counts.repeat_interleave(size), counts.repeat(size)
    apart = normalized_information(codes.rows, a, b, torch.zeros_like(a)).view(size, size)
    return replace(activity, score=score, apart=apart)


def normalized_information(
    rows: int, fired_i: Int[Tensor, " n"], fired_j: Int[Tensor, " n"], together: Int[Tensor, " n"]
) -> Float64[Tensor, " n"]:
    """Mutual information of whether two features fire, over the smaller of the two entropies; 0 if that is 0."""
    table = phi(rows, together.device)
    entropy = table[rows] - table - table.flip(0)  # of a feature, by how often it fires; times the rows
    neither = (rows - fired_i - fired_j + together).clamp_min(0)
    joint = table[rows] - table[together] - table[fired_i - together] - table[fired_j - together] - table[neither]
    smaller = torch.minimum(entropy[fired_i], entropy[fired_j])
    share = (entropy[fired_i] + entropy[fired_j] - joint) / smaller
    return torch.where(smaller > 0, share, 0).clamp(0, 1)
