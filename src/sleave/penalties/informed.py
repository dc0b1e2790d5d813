"""sleave's own: the most dependent pairs, each pushed apart as hard as it is dependent."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from sleave.dependence.choice import ByInformation
from sleave.dependence.correlation import Measure
from sleave.dependence.mutual_information import Estimation
from sleave.dependence.pairs import Pairs
from sleave.penalties.chosen import ChosenPairsOrthogonality


class InformedOrthogonality(ChosenPairsOrthogonality):
    """weight * sum over T of I_ij C_ij; T are the pairs with the most mutual information I over many batches.

    C_ij on one batch is mostly noise: two features that each fire on one row in a hundred meet by chance on 0.4 of 4096
    rows. The mean of a square is that of the mean, and the noise beside it: so a sum of C_ij^2 pushes apart whatever
    meets, dependent or not, and the reconstruction pays for it. Here how hard a pair is pushed is known from `window`
    batches (of the first ones, from as many as there are), and only the direction comes from the batch at hand. T and I
    are not differentiated.

    >>> import torch
    >>> acts = torch.relu(torch.randn(1000, 20, generator=torch.Generator().manual_seed(0)))
    >>> acts[:, 1] = acts[:, 0]
    >>> penalty = InformedOrthogonality(top=0.005)  # one of 190 pairs
    >>> loss = penalty(acts)  # add it to yours
    >>> penalty.pairs.i.tolist(), penalty.pairs.j.tolist()
    ([0], [1])

    Args:
        weight: what the sum is multiplied by. 1 suits d_in = 640 and activations of about one unit per dimension; the
            squared error grows with d_in and with the square of the units, and so should this.
        top: share of all P pairs that T is at most. Pairs that fire together no more often than chance are left out.
        refresh: choose T and estimate I anew every so many calls.
        window: from the last so many batches (fewer in the beginning).
        measure: what C is, `cosine` (uncentred) or `pearson`.
        min_coactivations: leave out pairs that fire together on fewer rows.
        shrinkage: multiply each I by m / (m + shrinkage), m the rows on which both fire.
        compare: after each choice, see how many pairs the next batches would have chosen too; needs refresh > window.
        estimation: how mutual information is estimated, see `sleave.mutual_information`; by default as there, but in
            at most 4 bins, which rank pairs as well and cost less.

    Reference: docs/methods.md; *MI-Ortho*, Eqs. (9) to (11), is where it comes from.
    """

    power = 1

    def __init__(
        self,
        weight: float = 1.0,
        top: float = 0.1,
        refresh: int = 50,
        window: int = 10,
        measure: Measure = "cosine",
        min_coactivations: int = 0,
        shrinkage: float = 0.0,
        compare: bool = False,
        estimation: Estimation | None = None,
    ) -> None:
        criterion = ByInformation(
            top, min_coactivations, shrinkage, estimation or Estimation(bins=4), above_chance=True
        )
        super().__init__(criterion, weight, refresh, window, compare, normalization="sum", measure=measure)

    def strength(self, pairs: Pairs) -> Float[Tensor, " pairs"]:
        return pairs.score
