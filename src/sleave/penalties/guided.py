"""MI-Ortho, and the paper's baselines for it: pairs chosen by gradients, and by correlation over many batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.dependence.choice import ByCorrelation, ByInformation
from sleave.dependence.correlation import Measure
from sleave.dependence.mutual_information import Estimation
from sleave.dependence.pairs import Pairs
from sleave.penalties.chosen import ChosenPairsOrthogonality, Normalization

WEIGHT = 3000.0  # of a mean over T: per pair and at d_sae = 2560, about 0.01


class MIOrtho(ChosenPairsOrthogonality):
    """The mean over T of min(tau_ij, tau_max) C_ij^2 times weight; T are the pairs with the most mutual information.

    tau_ij = tau_0 exp(beta I_ij). (For Gaussians exp(2 I) = 1 / (1 - rho^2).) With `normalization="none"` it is the
    paper's own term, the sum over T of tau_ij (f_i.f_j)^2, which is a million times the reconstruction error when
    training begins; the default divides by the norms and by |T|. T and tau are not differentiated, the norms are.

    >>> import torch
    >>> acts = torch.relu(torch.randn(1000, 20, generator=torch.Generator().manual_seed(0)))
    >>> acts[:, 1] = acts[:, 0]
    >>> penalty = MIOrtho(top=0.005)  # one of 190 pairs
    >>> loss = penalty(acts)  # add it to yours
    >>> penalty.pairs.i.tolist(), penalty.pairs.j.tolist()
    ([0], [1])

    Args:
        weight: what the mean (or the paper's sum) is multiplied by.
        top: share of all P pairs, those above the (1 - top) quantile of mutual information; the paper's 0.1. Pairs
            that never fire together are left out: nothing could push them.
        refresh: choose T anew every so many calls.
        window: estimate from the last so many batches.
        tau_0, beta, tau_max: see above; tau_max clips, since exact duplicates may have tau in the hundreds.
        normalization: `mean`, `sum` or `none`; see `ChosenPairsOrthogonality`.
        measure: what C is, `cosine` (uncentred, nearest to the paper's) or `pearson`.
        min_coactivations: leave out pairs that fire together on fewer rows.
        shrinkage: multiply each I by m / (m + shrinkage), m the rows on which both fire.
        compare: after each choice, see how many pairs the next batch would have chosen too (costs another choice).
        estimation: how mutual information is estimated, see `sleave.mutual_information`; by default as there, but in
            at most 4 bins, which rank pairs as well and cost less.

    Reference: *MI-Ortho*, Eqs. (8) to (11).
    """

    def __init__(
        self,
        weight: float = WEIGHT,
        top: float = 0.1,
        refresh: int = 20,
        window: int = 1,
        tau_0: float = 0.5,
        beta: float = 2.0,
        tau_max: float = 10.0,
        normalization: Normalization = "mean",
        measure: Measure = "cosine",
        min_coactivations: int = 0,
        shrinkage: float = 0.0,
        compare: bool = False,
        estimation: Estimation | None = None,
    ) -> None:
        criterion = ByInformation(top, min_coactivations, shrinkage, estimation or Estimation(bins=4))
        super().__init__(criterion, weight, refresh, window, compare, normalization, measure)
        if not (tau_0 > 0 and tau_max > 0 and beta >= 0):
            raise SleaveError(
                f"`tau_0` (= {tau_0}) and `tau_max` (= {tau_max}) must be above 0, and `beta` (= {beta}) at least 0."
            )
        self.tau_0, self.beta, self.tau_max = tau_0, beta, tau_max

    def strength(self, pairs: Pairs) -> Float[Tensor, " pairs"]:
        # The exponent is clipped too: it could overflow before tau is.
        return (self.tau_0 * torch.exp((self.beta * pairs.score).clamp(max=100.0))).clamp(max=self.tau_max)


class GradientOrthogonality(ChosenPairsOrthogonality):
    """weight times the mean of C_ij^2 over pairs chosen by the |cosine| of dL/df_i and dL/df_j, L the squared error.

    Call it with the decoder and the residual x_hat - x: dL/df is proportional to residual @ W_dec.T. (Dropout would put
    its mask into dL/df; it is left out.) A window keeps whole gradients: window * batch * d_sae numbers.

    Args:
        weight: what the mean is multiplied by.
        top: share of all P pairs.
        refresh: choose T anew every so many calls; 0: once, on the first (the paper's run 5).
        window, normalization, measure, min_coactivations, shrinkage, compare: as for `MIOrtho`.

    Reference: *MI-Ortho*, sections 5 and 6, runs 5 to 7.
    """

    def __init__(
        self,
        weight: float = WEIGHT,
        top: float = 0.1,
        refresh: int = 0,
        window: int = 1,
        normalization: Normalization = "mean",
        measure: Measure = "cosine",
        min_coactivations: int = 0,
        shrinkage: float = 0.0,
        compare: bool = False,
    ) -> None:
        criterion = ByCorrelation(top, min_coactivations, shrinkage)
        super().__init__(criterion, weight, refresh, window, compare, normalization, measure)

    def signal(self, W_dec: Tensor | None, residual: Tensor | None) -> Callable[[], Tensor]:
        if W_dec is None or residual is None:
            raise SleaveError(
                "Pairs are chosen by the gradient of the squared error, so give the decoder and the residual too: "
                "penalty(acts, W_dec, x_hat - x)."
            )
        if residual.shape[-1] != W_dec.shape[-1]:
            raise SleaveError(
                f"`W_dec` has shape {tuple(W_dec.shape)} and `residual` {tuple(residual.shape)}; they must be "
                "(d_sae, d_in) and (batch, d_in)."
            )
        return lambda: _gradient(W_dec, residual)


@torch.no_grad()
def _gradient(W_dec: Tensor, residual: Tensor) -> Float[Tensor, "batch d_sae"]:
    with torch.autocast(residual.device.type, enabled=False):
        return residual.to(W_dec.dtype) @ W_dec.t()


class TemporalOrthogonality(ChosenPairsOrthogonality):
    """weight times the mean of |P_ij| C_ij^2 over the top pairs by |P_ij|, the correlation pooled over many batches.

    Pairs that never fire together in those batches are left out, as in `MIOrtho`.

    Args:
        weight: what the mean is multiplied by.
        top: share of all P pairs.
        window: over how many batches correlations are pooled (numerators and norms separately); the paper's 5 or 20.
        refresh: choose T anew every so many calls.
        normalization, measure, min_coactivations, shrinkage, compare: as for `MIOrtho`; P is of the same measure.

    Reference: *MI-Ortho*, sections 5 and 6, runs 8 and 9.
    """

    def __init__(
        self,
        weight: float = WEIGHT,
        top: float = 0.1,
        window: int = 20,
        refresh: int = 20,
        normalization: Normalization = "mean",
        measure: Measure = "cosine",
        min_coactivations: int = 0,
        shrinkage: float = 0.0,
        compare: bool = False,
    ) -> None:
        criterion = ByCorrelation(top, max(1, min_coactivations), shrinkage, measure)
        super().__init__(criterion, weight, refresh, window, compare, normalization, measure)

    def strength(self, pairs: Pairs) -> Float[Tensor, " pairs"]:
        return pairs.score
