"""Selective orthogonality, and full orthogonality, its baseline."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sleave.codes.codes import Codes
from sleave.dependence.choice import ByCorrelation
from sleave.dependence.correlation import Measure, check_measure
from sleave.dependence.pairs import Pairs, num_pairs
from sleave.dependence.selection import top_pairs
from sleave.penalties.chosen import ChosenPairsOrthogonality
from sleave.penalties.pairwise import pair_penalty
from sleave.penalties.penalty import Penalty


class SelectiveOrthogonality(ChosenPairsOrthogonality):
    """weight * sum of C_ij^2 over the top fraction of pairs by |C_ij|.

    >>> import torch
    >>> penalty = SelectiveOrthogonality(top=0.5, weight=0.1)
    >>> acts = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    >>> round(float(penalty(acts)), 4)  # pairs (0, 1) and (1, 2), each with C = 1 / sqrt(2)
    0.1
    >>> penalty.pairs.i.tolist(), penalty.pairs.j.tolist()
    ([0, 1], [1, 2])

    Args:
        top: share of all P pairs that is chosen, zeros included; 0.001 is the paper's 0.1%.
        weight: the paper's lambda_2, 0.1.
        refresh: choose the pairs anew every so many calls; in between, the chosen ones are pushed apart by their
            correlation on each batch. 0: choose once, on the first call.
        window: choose by the correlation pooled over the last so many batches (numerators and norms separately).
        measure: `cosine` (the paper's, uncentred) or `pearson`.
        min_coactivations: leave out pairs that fire together in fewer rows of the window than this.
        shrinkage: choose by |C| m / (m + shrinkage), m the rows of the window on which both fire.
        compare: after each choice, see how many pairs the next batch would have chosen too (costs another choice).

    Reference: *Top-k feature decorrelation*, Eqs. (4), (5), (7).
    """

    def __init__(
        self,
        top: float = 0.001,
        weight: float = 0.1,
        refresh: int = 1,
        window: int = 1,
        measure: Measure = "cosine",
        min_coactivations: int = 0,
        shrinkage: float = 0.0,
        compare: bool = False,
    ) -> None:
        criterion = ByCorrelation(top, min_coactivations, shrinkage, measure)
        super().__init__(criterion, weight, refresh, window, compare, normalization="sum", measure=measure)


class FullOrthogonality(Penalty):
    """weight * sum of C_ij^2 over all P pairs: what selective orthogonality is compared with.

    Under autocast the two matrix products run in its dtype.

    Args:
        weight: what the sum is multiplied by, the paper's 0.1.
        measure: `cosine` (the paper's, uncentred) or `pearson`.
    """

    chooses = False

    def __init__(self, weight: float = 0.1, measure: Measure = "cosine") -> None:
        super().__init__(weight)
        self.measure = check_measure(measure)
        self._acts: Tensor | Codes | None = None
        self._figures: dict[str, float] = {}

    def __call__(
        self,
        acts: Float[Tensor, "batch d_sae"] | Codes,
        W_dec: Float[Tensor, "d_sae d_in"] | None = None,
        residual: Float[Tensor, "batch d_in"] | None = None,
    ) -> Float[Tensor, ""]:
        self.check(acts)
        self._acts = acts.detach()
        total = pair_penalty(acts, None, measure=self.measure)
        pairs = num_pairs(acts.shape[1])
        self._figures = {"pairs": float(pairs), "mean_square": float(total.detach()) / max(pairs, 1)}
        return self.weight * total

    @property
    def pairs(self) -> Pairs | None:
        """All P pairs of the last batch, computed when asked for; None before the first call."""
        return None if self._acts is None else top_pairs(self._acts, 1.0, measure=self.measure)

    def figures(self) -> dict[str, float]:
        """How many pairs there are, and the mean of C^2 over them."""
        return dict(self._figures)
