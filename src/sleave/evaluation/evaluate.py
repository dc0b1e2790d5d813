"""All metric families over one pass of held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from sleave.activations.scaling import Scaling
from sleave.autoencoder.model import SparseAutoencoder, inference
from sleave.base.errors import NotEnoughMemory, SleaveError
from sleave.base.progress import say
from sleave.codes.codes import as_codes
from sleave.evaluation.codes import CodesResult, CodeStatistics
from sleave.evaluation.correlation import Correlation, CorrelationResult
from sleave.evaluation.information import Information, InformationResult
from sleave.evaluation.reconstruction import Reconstruction, ReconstructionResult

R = TypeVar("R")


@dataclass(frozen=True)
class Evaluation:
    """What an autoencoder does on held-out rows.

    Attributes:
        rows: how many there were.
        scaled: reconstruction in the units it was trained in.
        raw: reconstruction of the model's own activations, comparable with other tools'.
        codes: sparsity (L1 in the units it was trained in) and utilisation.
        correlation: of the codes, which no scaling changes; None if there is not the memory for it (which is said).
        information: mutual information between codes; None for that reason too, or for fewer than 2 rows or features.
    """

    rows: int
    scaled: ReconstructionResult
    raw: ReconstructionResult
    codes: CodesResult
    correlation: CorrelationResult | None
    information: InformationResult | None

    def to_dict(self) -> dict[str, Any]:
        """As nested JSON values."""
        return asdict(self)


@torch.no_grad()
def evaluate_rows(
    sae: SparseAutoencoder, batches: Iterable[Tensor], scaling: Scaling | None = None, max_rows: int | None = None
) -> Evaluation:
    """Evaluate an autoencoder on raw activations.

    Args:
        sae: reads raw activations, as `sleave.load` gives it.
        batches: (batch, d_in) raw held-out activations, float32.
        scaling: the units in which the scaled figures are given; those of the activations by default.
        max_rows: stop after so many rows.

    Raises:
        SleaveError: there are no rows, they have another width, or they hold NaN or infinite values.
    """
    scaling = scaling or Scaling.identity(sae.d_in)
    raw, scaled = Reconstruction(sae.d_in), Reconstruction(sae.d_in)
    codes = CodeStatistics((sae.W_dec * scaling.scale).norm(dim=1))
    correlation, information = Correlation(), Information()
    rows = 0
    for x in _up_to(batches, max_rows):
        if not bool(torch.isfinite(x).all()):
            raise SleaveError("The held-out activations hold NaN or infinite values; harvest them again.")
        if len(x) == 0:
            continue
        with inference(sae):
            acts = as_codes(sae.codes(x))
            x_hat = sae.decode(acts)
        raw.update(x, x_hat)
        scaled.update(scaling.apply(x), scaling.apply(x_hat))
        codes.update(acts)
        information.update(acts)
        correlation.update(acts)
        rows += len(x)
    if rows == 0:
        raise SleaveError("There are no held-out rows. Harvest with harvest.heldout_fraction above 0, or more text.")
    correlated = _unless_too_large("Correlation", correlation.compute)
    enough = rows >= 2 and sae.d_sae >= 2
    informed = _unless_too_large("Mutual information", information.compute) if enough else None
    return Evaluation(rows, scaled.compute(), raw.compute(), codes.compute(), correlated, informed)


def _unless_too_large(name: str, compute: Callable[[], R]) -> R | None:
    try:
        return compute()
    except NotEnoughMemory as error:
        say(f"{name} is left out. {error} (evaluation.max_rows)")
        return None


def _up_to(batches: Iterable[Tensor], max_rows: int | None) -> Iterator[Tensor]:
    left = max_rows
    for batch in batches:
        x = batch[:left]
        yield x
        if left is not None:
            left -= len(x)
            if left <= 0:  # before another batch is asked for, which may take the language model
                return
