"""Whether two runs chose the same pairs: features of different seeds are matched by their directions first."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.dependence.pairs import Pairs

ALIKE = 0.7  # cosine of two decoder directions, from which on they count as the same feature


@dataclass(frozen=True)
class Overlap:
    """How far two runs agree.

    Attributes:
        matched: share of the first run's features that have a counterpart in the second.
        pairs: how many of both runs' pairs are between features that have one, each pair once.
        jaccard: share of those that both runs chose; NaN if there are none.
        chance: what that share would be, on average, had each run chosen as many of these features' pairs blindly.
    """

    matched: float
    pairs: int
    jaccard: float
    chance: float


@torch.no_grad()
def overlap(
    first: Float[Tensor, "d_first d_in"],
    second: Float[Tensor, "d_second other_d_in"],
    pairs: tuple[Pairs, Pairs],
    alike: float = ALIKE,
) -> Overlap:
    """Compare the pairs that two autoencoders' runs chose.

    Args:
        first, second: their decoder directions.
        pairs: what each chose.
        alike: two features are the same if each is the other's nearest, with at least this cosine.

    Raises:
        SleaveError: the directions have different widths.
    """
    if first.shape[1] != second.shape[1]:
        raise SleaveError(
            f"The runs read different widths, {first.shape[1]} and {second.shape[1]}; nothing to compare."
        )
    place = counterparts(first, second, alike)
    back = torch.full((len(second),), -1).scatter_(0, place[place >= 0], (place >= 0).nonzero().flatten())
    mine, theirs = (
        _between(p, numbers) for p, numbers in zip(pairs, (torch.where(place >= 0, 1, -1), back), strict=True)
    )
    mapped = place[torch.stack([mine.i, mine.j])].sort(dim=0).values
    mine = Pairs.of(mapped[0], mapped[1], mine.score)
    both = int(torch.isin(mine.i * len(second) + mine.j, theirs.i * len(second) + theirs.j).sum())
    either = len(mine) + len(theirs) - both
    features = int((place >= 0).sum())
    possible = max(1, features * (features - 1) // 2)
    by_chance = len(mine) * len(theirs) / possible
    rest = len(mine) + len(theirs) - by_chance
    return Overlap(
        features / len(first),
        either,
        both / either if either else float("nan"),
        by_chance / rest if rest else float("nan"),
    )


def counterparts(
    first: Float[Tensor, "d_first d_in"], second: Float[Tensor, "d_second d_in"], alike: float
) -> Int[Tensor, " d_first"]:
    """The feature of the second that is each feature of the first; -1 if none is."""
    cosine = torch.nn.functional.normalize(first, dim=1) @ torch.nn.functional.normalize(second, dim=1).t()
    best, place = cosine.max(dim=1)
    mutual = cosine.argmax(dim=0)[place] == torch.arange(len(first))
    return torch.where(mutual & (best >= alike), place, -1)


def _between(pairs: Pairs, number: Tensor) -> Pairs:
    """The pairs whose features both have a number."""
    return pairs.where((number[pairs.i] >= 0) & (number[pairs.j] >= 0))
