"""What penalties on chosen pairs have in common: choose T now and then, push its pairs apart on every batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.base.errors import check_one_of
from sleave.codes.codes import Codes
from sleave.dependence.choice import Criterion, PairChooser
from sleave.dependence.correlation import check_measure
from sleave.dependence.pairs import Pairs
from sleave.penalties.pairwise import pair_penalty
from sleave.penalties.penalty import Penalty

Normalization = Literal["mean", "sum", "none"]


class ChosenPairsPenalty(Penalty):
    """A penalty on pairs T that are chosen now and then.

    Args:
        criterion: by what T is chosen.
        weight: what the penalty is multiplied by.
        refresh: choose T anew every so many calls; 0: once, on the first.
        window: choose from the last so many batches.
        compare: after each choice, see how many pairs the next batch would have chosen too.
    """

    def __init__(
        self, criterion: Criterion, weight: float, refresh: int, window: int = 1, compare: bool = False
    ) -> None:
        super().__init__(weight)
        self.chooser = PairChooser(criterion, refresh, window, compare)

    @property
    def pairs(self) -> Pairs | None:
        """The chosen pairs T; None before the first call."""
        return self.chooser.pairs

    def figures(self) -> dict[str, float]:
        """See `PairChooser.figures`."""
        return self.chooser.figures()

    def state(self) -> dict[str, Tensor]:
        return self.chooser.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        self.chooser.restore(state)


class ChosenPairsOrthogonality(ChosenPairsPenalty):
    """weight * sum over T of tau_ij C_ij^power, its mean, or the same of f_i.f_j.

    Args:
        criterion, weight, refresh, window, compare: see `ChosenPairsPenalty`.
        normalization: `mean` of tau C^2 over T; `sum` of it; or `none`: the sum of tau (f_i.f_j)^2, which grows as the
            square of the batch and the fourth power of the codes.
        measure: what C is, unless normalization is `none`.

    Attributes:
        power: 2, unless a subclass says otherwise.
    """

    power = 2

    def __init__(
        self,
        criterion: Criterion,
        weight: float,
        refresh: int,
        window: int,
        compare: bool,
        normalization: str,
        measure: str,
    ) -> None:
        super().__init__(criterion, weight, refresh, window, compare)
        check_one_of("normalization", normalization, get_args(Normalization))
        self.normalization = normalization
        self.measure = check_measure(measure)
        self._pushed: Pairs | None = None  # the pairs whose strength is known
        self._strength: Tensor | None = None

    def strength(self, pairs: Pairs) -> Float[Tensor, " pairs"]:
        """tau_ij, how hard each chosen pair is pushed; 1 unless a subclass says otherwise."""
        return torch.ones_like(pairs.score)

    def signal(self, W_dec: Tensor | None, residual: Tensor | None) -> Callable[[], Tensor] | None:
        """What pairs are chosen by, (batch, d_sae), if not by the codes."""
        return None

    def __call__(
        self,
        acts: Float[Tensor, "batch d_sae"] | Codes,
        W_dec: Float[Tensor, "d_sae d_in"] | None = None,
        residual: Float[Tensor, "batch d_in"] | None = None,
    ) -> Float[Tensor, ""]:
        self.check(acts)
        pairs = self.chooser(acts, self.signal(W_dec, residual))
        if pairs is not self._pushed:
            dtype = torch.promote_types(acts.dtype, torch.float32)
            self._pushed, self._strength = pairs, self.strength(pairs).to(dtype)
        scale = self.weight / max(1, len(pairs)) if self.normalization == "mean" else self.weight
        measure = "dot" if self.normalization == "none" else self.measure
        return scale * pair_penalty(acts, pairs, self._strength, measure, power=self.power)
