"""The mutual information of the most dependent pairs, as a penalty by itself."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.dependence.kde import FACTOR, BandwidthScale, check_factor, check_scale, kde_all_pairs, kde_pairs
from sleave.dependence.pairs import Pairs, top_count
from sleave.penalties.penalty import Penalty

Weighting = Literal["uniform", "information"]


class InformationPenalty(Penalty):
    """weight * mean of w_ij I(f_i, f_j) over the top fraction of pairs by I, estimated by KDE and differentiated.

    The mean over the pairs, where the paper has the sum: so the weight means the same whatever `top` and d_sae are.
    Codes of any precision are computed in float64, and nothing is autocast. A code of exactly zero gets no gradient
    (see `kde_pairs`).

    Args:
        top: share of all P pairs that is chosen, zeros included; the paper keeps 0.1, those above the 90th percentile.
        weight: the paper's lambda_2.
        refresh: choose the pairs anew every so many calls, by the codes of that call. Choosing estimates every pair
            (`kde_all_pairs`) and costs far more than the penalty.
        factor: the bandwidth is factor * N^(-1/5).
        bandwidth_scale: `absolute` (the paper's, in units of activation) or `std` (of each feature's own deviation).
            An absolute bandwidth lets a feature lower its I by shrinking below it.
        weighting: w_ij is 1 (`uniform`), or I_ij itself without gradient (`information`).

    Reference: *MI-Ortho*, the last term of Eq. (4), with I of Eq. (8).
    """

    def __init__(
        self,
        top: float = 0.001,
        weight: float = 1.0,
        refresh: int = 20,
        factor: float = FACTOR,
        bandwidth_scale: BandwidthScale = "absolute",
        weighting: Weighting = "uniform",
    ) -> None:
        super().__init__(weight)
        top_count(top, 2)
        if refresh < 1:
            raise SleaveError(f"`refresh` (= {refresh}) must be at least 1: choose the pairs every so many calls.")
        if weighting not in get_args(Weighting):
            allowed = ", ".join(map(repr, get_args(Weighting)))
            raise SleaveError(f"`weighting` (= {weighting!r}) must be one of {allowed}.")
        self.top = top
        self.refresh = refresh
        self.factor = check_factor(factor)
        self.bandwidth_scale = check_scale(bandwidth_scale)
        self.weighting = weighting
        self._pairs: Pairs | None = None
        self._calls = 0
        self._overlap = self._information = float("nan")

    def __call__(
        self,
        acts: Float[Tensor, "batch d_sae"],
        W_dec: Float[Tensor, "d_sae d_in"] | None = None,
        residual: Float[Tensor, "batch d_in"] | None = None,
    ) -> Float[Tensor, ""]:
        if self._calls % self.refresh == 0 or self._pairs is None:
            former = self._pairs
            self._pairs = self._choose(acts.detach())
            self._overlap = self._pairs.jaccard(former) if former is not None else float("nan")
        self._calls += 1
        with torch.autocast(acts.device.type, enabled=False):
            information = kde_pairs(acts, self._pairs.i, self._pairs.j, self.factor, self.bandwidth_scale)
            self._information = float(information.detach().mean())
            terms = information * information.detach() if self.weighting == "information" else information
            return (self.weight * terms.mean()).to(torch.promote_types(acts.dtype, torch.float32))

    @property
    def pairs(self) -> Pairs | None:
        """The chosen pairs T, sorted by I when they were chosen; None before the first call."""
        return self._pairs

    def figures(self) -> dict[str, float]:
        """pairs and unique_features in T; peak, mean and least I when they were chosen, and the mean now
        (information), in nats; Jaccard overlap with the T before it."""
        if self._pairs is None:
            return {"pairs": 0.0, "unique_features": 0.0}
        score = self._pairs.score
        figures = {
            "pairs": float(len(self._pairs)),
            "unique_features": float(self._pairs.num_features),
            "peak": float(score[0]),
            "mean": float(score.mean()),
            "least": float(score[-1]),
            "information": self._information,
        }
        return figures if self._overlap != self._overlap else {**figures, "overlap": self._overlap}

    def state(self) -> dict[str, Tensor]:
        numbers = {"overlap": self._overlap, "information": self._information}
        state = {name: torch.tensor(number, dtype=torch.float64) for name, number in numbers.items()}
        state["calls"] = torch.tensor(self._calls)
        if self._pairs is not None:
            state |= {"i": self._pairs.i, "j": self._pairs.j, "score": self._pairs.score}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        self._calls = int(state["calls"])
        self._overlap = float(state["overlap"])
        self._information = float(state["information"])
        self._pairs = Pairs(state["i"], state["j"], state["score"]) if "i" in state else None

    def _choose(self, acts: Tensor) -> Pairs:
        """The round(top P) pairs with the largest I; among equals the smaller i, then the smaller j, first."""
        count = top_count(self.top, acts.shape[1])
        i, j = torch.triu_indices(acts.shape[1], acts.shape[1], offset=1, device=acts.device)
        score = kde_all_pairs(acts, self.factor, self.bandwidth_scale)[i, j]
        score, order = score.sort(stable=True, descending=True)
        return Pairs(i[order[:count]], j[order[:count]], score[:count])
