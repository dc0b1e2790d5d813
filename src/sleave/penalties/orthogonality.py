"""Selective orthogonality, and full orthogonality, its baseline."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from sleave.base.errors import SleaveError
from sleave.dependence.correlation import Measure, check_measure, unit_columns
from sleave.dependence.pairs import Pairs, num_pairs, top_count
from sleave.dependence.selection import top_pairs
from sleave.dependence.window import Window
from sleave.penalties.pairwise import pair_penalty
from sleave.penalties.penalty import Penalty

COLUMNS = 4096  # columns of C that full orthogonality holds at once


class SelectiveOrthogonality(Penalty):
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
            correlation on each batch.
        window: choose by the correlation pooled over the last so many batches (numerators and norms separately).
        measure: `cosine` (the paper's, uncentred) or `pearson`.
        min_coactivations: leave out pairs that fire together in fewer rows of the window than this.

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
    ) -> None:
        super().__init__(weight)
        top_count(top, 2)
        if refresh < 1:
            raise SleaveError(f"`refresh` (= {refresh}) must be at least 1: choose the pairs every so many calls.")
        self.top = top
        self.refresh = refresh
        self.measure = check_measure(measure)
        self.min_coactivations = min_coactivations
        self._pairs: Pairs | None = None
        self._window = Window(window)
        self._calls = 0
        self._overlap = float("nan")

    def __call__(
        self, acts: Float[Tensor, "batch d_sae"], W_dec: Float[Tensor, "d_sae d_in"] | None = None
    ) -> Float[Tensor, ""]:
        if self._calls % self.refresh == 0 or self._pairs is None:
            former = self._pairs
            stacked = self._window.stack(acts)
            self._pairs = top_pairs(stacked, self.top, measure=self.measure, min_coactivations=self.min_coactivations)
            self._overlap = self._pairs.jaccard(former) if former is not None else float("nan")
        self._window.push(acts)
        self._calls += 1
        weight = torch.full_like(self._pairs.score, self.weight)
        return pair_penalty(acts, self._pairs.i, self._pairs.j, weight, self.measure)

    @property
    def pairs(self) -> Pairs | None:
        """The chosen pairs T, sorted by score; None before the first call."""
        return self._pairs

    def figures(self) -> dict[str, float]:
        """pairs and unique_features in T; its peak, mean and least score; Jaccard overlap with the T before it."""
        if self._pairs is None or len(self._pairs) == 0:
            return {"pairs": 0.0, "unique_features": 0.0}
        score = self._pairs.score
        figures = {
            "pairs": float(len(self._pairs)),
            "unique_features": float(self._pairs.num_features),
            "peak": float(score[0]),
            "mean": float(score.mean()),
            "least": float(score[-1]),
        }
        return figures if self._overlap != self._overlap else {**figures, "overlap": self._overlap}

    def state(self) -> dict[str, Tensor]:
        state = {f"window.{name}": part for name, part in self._window.state().items()}
        state["calls"] = torch.tensor(self._calls)
        state["overlap"] = torch.tensor(self._overlap, dtype=torch.float64)
        if self._pairs is not None:
            state |= {"i": self._pairs.i, "j": self._pairs.j, "score": self._pairs.score}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        self._window.restore({n.removeprefix("window."): t for n, t in state.items() if n.startswith("window.")})
        self._calls = int(state["calls"])
        self._overlap = float(state["overlap"])
        self._pairs = Pairs(state["i"], state["j"], state["score"]) if "i" in state else None


class FullOrthogonality(Penalty):
    """weight * sum of C_ij^2 over all P pairs: what selective orthogonality is compared with.

    Under autocast the two matrix products run in its dtype.

    Args:
        weight: what the sum is multiplied by, the paper's 0.1.
        measure: `cosine` (the paper's, uncentred) or `pearson`.
    """

    def __init__(self, weight: float = 0.1, measure: Measure = "cosine") -> None:
        super().__init__(weight)
        self.measure = check_measure(measure)
        self._acts: Tensor | None = None
        self._figures: dict[str, float] = {}

    def __call__(
        self, acts: Float[Tensor, "batch d_sae"], W_dec: Float[Tensor, "d_sae d_in"] | None = None
    ) -> Float[Tensor, ""]:
        self._acts = acts.detach()
        total: Tensor = _AllPairs.apply(acts, self.measure)
        pairs = num_pairs(acts.shape[1])
        self._figures = {"pairs": float(pairs), "mean_square": float(total.detach()) / max(pairs, 1)}
        return self.weight * total

    @property
    def pairs(self) -> Pairs | None:
        """All P pairs of the last batch, sorted by score, computed when asked for; None before the first call."""
        return None if self._acts is None else top_pairs(self._acts, 1.0, measure=self.measure)

    def figures(self) -> dict[str, float]:
        """How many pairs there are, and the mean of C^2 over them."""
        return dict(self._figures)


class _AllPairs(torch.autograd.Function):
    """sum over all pairs of C_ij^2; see `pair_penalty` for the gradient, here with a dense S."""

    @staticmethod
    def forward(ctx: Any, acts: Tensor, measure: Measure) -> Tensor:
        device = acts.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            unit, inverse = unit_columns(acts, measure)
            factor = unit.to(dtype) if dtype else unit
            slope = torch.empty_like(unit)
            pull = torch.zeros_like(inverse)
            for start in range(0, unit.shape[0], COLUMNS):
                part = slice(start, start + COLUMNS)
                block = factor[part] @ factor.t()  # rows `part` of C
                block.diagonal(start).zero_()
                pull[part] = block.float().square().sum(dim=1) if dtype else block.square().sum(dim=1)
                slope[part] = block @ factor
            total = pull.sum(dtype=torch.float64) / 2
            ctx.save_for_backward(unit, inverse, slope, pull)
            ctx.dtype = acts.dtype
            return total.to(unit.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None]:
        unit, inverse, slope, pull = ctx.saved_tensors
        grad = (slope - pull[:, None] * unit) * (2 * grad_output * inverse)[:, None]
        return grad.t().to(ctx.dtype), None
