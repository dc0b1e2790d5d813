"""The mutual information of the most dependent pairs, as a penalty by itself."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.base.errors import check_one_of
from sleave.base.ranks import current
from sleave.codes.codes import Codes
from sleave.dependence.choice import ByInformation
from sleave.dependence.kde import kde_pairs
from sleave.dependence.mutual_information import Estimation
from sleave.penalties.chosen import ChosenPairsPenalty

Weighting = Literal["uniform", "information"]


class InformationPenalty(ChosenPairsPenalty):
    """weight * mean of w_ij I(f_i, f_j) over the top fraction of pairs by I, estimated by KDE and differentiated.

    The mean over the pairs, where the paper has the sum: so the weight means the same whatever `top` and d_sae are.
    Codes of any precision are computed in float64, and nothing is autocast. A code of exactly zero gets no gradient
    (see `kde_pairs`).

    Args:
        weight: the paper's lambda_2.
        top: share of all P pairs, those with the most information; the paper's 0.1 would take seconds a step.
        refresh: choose the pairs anew every so many calls. A choice estimates every pair and costs far more than the
            penalty.
        window, min_coactivations, shrinkage, compare: as for `MIOrtho`.
        bandwidth_factor: the bandwidth is factor * N^(-1/5).
        bandwidth_scale: `absolute` (the paper's, in units of activation) or `std` (of each feature's own deviation).
            An absolute bandwidth lets a feature lower its I by shrinking below it.
        weighting: w_ij is 1 (`uniform`), or I_ij itself without gradient (`information`).

    Reference: *MI-Ortho*, the last term of Eq. (4), with I of Eq. (8).
    """

    def __init__(
        self,
        weight: float = 100.0,
        top: float = 0.001,
        refresh: int = 20,
        window: int = 1,
        min_coactivations: int = 0,
        shrinkage: float = 0.0,
        compare: bool = False,
        bandwidth_factor: float = 0.15,
        bandwidth_scale: str = "absolute",
        weighting: str = "uniform",
    ) -> None:
        estimation = Estimation("kde", bandwidth_factor=bandwidth_factor, bandwidth_scale=bandwidth_scale)
        super().__init__(ByInformation(top, min_coactivations, shrinkage, estimation), weight, refresh, window, compare)
        check_one_of("weighting", weighting, get_args(Weighting))
        self.estimation = estimation
        self.weighting = weighting
        self._information = math.nan

    def __call__(
        self,
        acts: Float[Tensor, "batch d_sae"] | Codes,
        W_dec: Float[Tensor, "d_sae d_in"] | None = None,
        residual: Float[Tensor, "batch d_in"] | None = None,
    ) -> Float[Tensor, ""]:
        self.check(acts)
        pairs = self.chooser(acts)
        ranks = current().rows
        acts = acts.gathered(ranks) if isinstance(acts, Codes) else ranks.cat(acts)  # a density is of all rows
        with torch.autocast(acts.device.type, enabled=False):
            bandwidth = (self.estimation.bandwidth_factor, self.estimation.bandwidth_scale)
            if isinstance(acts, Codes):
                features, index = torch.cat([pairs.i, pairs.j]).unique(return_inverse=True)
                i, j = index.chunk(2)
                information = kde_pairs(acts.columns(features), i, j, *bandwidth)
            else:
                information = kde_pairs(acts, pairs.i, pairs.j, *bandwidth)
            terms = information * information.detach() if self.weighting == "information" else information
            mean = terms.sum() / max(1, len(pairs))
            self._information = float(information.detach().sum()) / max(1, len(pairs))
            return (self.weight * mean).to(torch.promote_types(acts.dtype, torch.float32))

    def figures(self) -> dict[str, float]:
        """Those of the choice, and `information`: the mean of I over T on the last batch, in nats."""
        figures = super().figures()
        return figures if math.isnan(self._information) else figures | {"information": self._information}
