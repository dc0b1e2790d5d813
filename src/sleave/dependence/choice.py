"""Which pairs to push apart: by what they are chosen, how often, and how lasting the choice is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.base.ranks import current
from sleave.codes.codes import Codes, as_codes, few_coactivations
from sleave.dependence.correlation import Measure, check_measure
from sleave.dependence.mutual_information import Estimation, mutual_information
from sleave.dependence.pairs import Pairs, check_coactivations, top_count
from sleave.dependence.selection import most_to_walk, top_pairs
from sleave.dependence.window import Window


@dataclass(frozen=True)
class Criterion(ABC):
    """By what pairs are chosen.

    Attributes:
        top: share of all P pairs, zeros included.
        min_coactivations: leave out pairs that fire together on fewer rows.
        shrinkage: multiply each score by m / (m + shrinkage), m the rows on which both fire.
    """

    top: float
    min_coactivations: int = 0
    shrinkage: float = 0.0

    def __post_init__(self) -> None:
        top_count(self.top, 2)
        check_coactivations(self.min_coactivations, self.shrinkage)

    @abstractmethod
    def choose(self, signal: Tensor | Codes, fires: Tensor | Codes) -> Pairs:
        """The pairs of a batch, or of several, by what is looked at (codes or gradients) and who fires (codes)."""


@dataclass(frozen=True)
class ByCorrelation(Criterion):
    """The top fraction by |C|; also of gradients, when those are what it is given."""

    measure: Measure = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_measure(self.measure)

    def choose(self, signal: Tensor | Codes, fires: Tensor | Codes) -> Pairs:
        if isinstance(signal, Tensor) and signal is fires:
            codes = few_coactivations(signal, most_to_walk(signal))
            signal = fires = signal if codes is None else codes
        counted = {"min_coactivations": self.min_coactivations, "shrinkage": self.shrinkage}
        return top_pairs(signal, self.top, measure=self.measure, fires=fires, **counted)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ByInformation(Criterion):
    """The pairs above the (1 - top) quantile of mutual information that fire together at all.

    Attributes:
        above_chance: leave out those that fire together no more often than chance would have it. Features that avoid
            each other have mutual information too, which pushing them apart would raise.

    Reference: *MI-Ortho*, Eq. (9).
    """

    estimation: Estimation = field(default_factory=Estimation)
    above_chance: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top >= 1:
            raise SleaveError(f"`top` (= {self.top}) must be below 1: pairs above the (1 - top) quantile are chosen.")

    def choose(self, signal: Tensor | Codes, fires: Tensor | Codes) -> Pairs:
        codes = as_codes(signal)
        scores = mutual_information(codes, **vars(self.estimation)).shrunk(self.shrinkage)
        if self.above_chance:
            scores = scores.attracted(codes.fired, codes.rows)
        return scores.top(self.top, min_coactivations=max(1, self.min_coactivations))


def _of_all_ranks(acts: Tensor | Codes, gradient: Callable[[], Tensor] | None) -> tuple[Tensor | Codes, Tensor | Codes]:
    """The codes of the whole batch, and what pairs are chosen by: every rank chooses from the same."""
    acts, ranks = acts.detach(), current().rows
    if ranks.size == 1:
        return acts, acts if gradient is None else gradient()
    whole = as_codes(acts).gathered(ranks)
    return whole, whole if gradient is None else ranks.cat(gradient())


def _of_first(pairs: Pairs) -> Pairs:
    """Those that the first process chose: another machine may rank scores that are next to equal another way."""
    everyone = current().everyone
    return Pairs(everyone.of_first(pairs.i), everyone.of_first(pairs.j), everyone.of_first(pairs.score))


class PairChooser:
    """Chooses pairs anew every so many calls, from the last so many batches.

    Args:
        criterion: by what.
        refresh: choose every so many calls; 0 means once, on the first.
        window: pool the last so many batches.
        compare: after each choice, choose once more from the next batches, only to see how many pairs are the same.

    Raises:
        SleaveError: `refresh` is negative; `refresh` is 0, and `window` above 1; or `compare`, and `refresh` not above
            `window` (then there are no batches between two choices that the first has not seen).
    """

    def __init__(self, criterion: Criterion, refresh: int = 1, window: int = 1, compare: bool = False) -> None:
        if refresh < 0:
            raise SleaveError(f"`refresh` (= {refresh}) must be at least 1, or 0 to choose the pairs once for all.")
        if refresh == 0 and window > 1:
            raise SleaveError(f"`window` (= {window}) must be 1 with refresh = 0: only the first batch is looked at.")
        if compare and refresh <= window:
            raise SleaveError(
                f"`compare` needs `refresh` (= {refresh}) above `window` (= {window}), so that there are other batches "
                "to compare with; where they are equal, the overlap that is logged anyway is of different batches."
            )
        self.criterion = criterion
        self.refresh = refresh
        self.compare = compare
        self.pairs: Pairs | None = None
        self._windows = {"signal": Window(window), "fires": Window(window)}
        self._calls = 0
        self._overlap = {"overlap": math.nan, "overlap_next": math.nan}

    @torch.no_grad()
    def __call__(
        self,
        acts: Float[Tensor, "batch d_sae"] | Codes,
        gradient: Callable[[], Float[Tensor, "batch d_sae"]] | None = None,
    ) -> Pairs:
        """The pairs to push apart on this batch, chosen by its codes or by gradients, asked for when due."""
        phase = self._calls % self.refresh if self.refresh else self._calls
        due = phase == 0
        again = self.compare and phase == self._windows["signal"].length
        if due or again:
            chosen = _of_first(self._choose(*_of_all_ranks(acts, gradient)))
            if due:
                self._overlap["overlap"] = chosen.jaccard(self.pairs) if self.pairs is not None else math.nan
                self.pairs = chosen
            elif self.pairs is not None:
                self._overlap["overlap_next"] = chosen.jaccard(self.pairs)
        elif self._next_choice_sees_it(phase):
            self._remember(*_of_all_ranks(acts, gradient))
        self._calls += 1
        assert self.pairs is not None
        return self.pairs

    def _next_choice_sees_it(self, phase: int) -> bool:
        window = self._windows["signal"].length
        return (self.refresh > 0 and self.refresh - phase < window) or (self.compare and phase < window)

    def _remember(self, acts: Tensor | Codes, signal: Tensor | Codes) -> None:
        self._windows["signal"].push(signal)
        if signal is not acts:
            self._windows["fires"].push(acts)

    def _choose(self, acts: Tensor | Codes, signal: Tensor | Codes) -> Pairs:
        if self._windows["signal"].length == 1:
            return self.criterion.choose(signal, acts)
        self._remember(acts, signal)
        pooled = self._windows["signal"].codes()
        return self.criterion.choose(pooled, pooled if signal is acts else self._windows["fires"].codes())

    def figures(self) -> dict[str, float]:
        """pairs and unique_features in T; its peak, mean and least score; Jaccard overlap with the T before it, and
        (overlap_next) with the T that the next batches, as many as the window, would have given."""
        if self.pairs is None:
            return {"pairs": 0.0, "unique_features": 0.0}
        return self.pairs.figures | {name: value for name, value in self._overlap.items() if value == value}

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on as if never stopped."""
        state = {f"{n}.{name}": part for n, window in self._windows.items() for name, part in window.state().items()}
        state["calls"] = torch.tensor(self._calls)
        state |= {name: torch.tensor(value, dtype=torch.float64) for name, value in self._overlap.items()}
        if self.pairs is not None:
            state |= {"i": self.pairs.i, "j": self.pairs.j, "score": self.pairs.score}
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned."""
        for n, window in self._windows.items():
            prefix = f"{n}."
            window.restore({k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)})
        self._calls = int(state["calls"])
        self._overlap = {name: float(state[name]) for name in self._overlap}
        self.pairs = Pairs.of(state["i"], state["j"], state["score"]) if "i" in state else None
