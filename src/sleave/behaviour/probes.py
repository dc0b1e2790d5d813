"""Logistic regression on few features or on raw activations, and which features tell two classes apart."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sleave.behaviour.results import Result

NOT_INSTALLED = Result("not_installed", "Probes need scikit-learn. Run: pip install 'sleave[evaluation]'.")


def installed() -> bool:
    """Whether scikit-learn is there."""
    return find_spec("sklearn") is not None


@dataclass(frozen=True)
class Probe:
    """A linear classifier: positive scores say yes."""

    weight: Float[Tensor, " columns"]
    bias: float

    def scores(self, x: Float[Tensor, "rows columns"]) -> Float[Tensor, " rows"]:
        """The log-odds of yes."""
        return x @ self.weight + self.bias


def fit_probe(x: Float[Tensor, "rows columns"], yes: Bool[Tensor, " rows"], regularisation: float = 1.0) -> Probe:
    """Logistic regression on standardised columns, both classes of the same weight; the probe reads them as they are.

    Args:
        x: both classes.
        yes: which rows are of the class.
        regularisation: half the weight of the squared norm of the coefficients against the summed loss (1 / C).
    """
    from sklearn.linear_model import LogisticRegression

    x = x.double()
    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(scale > 0, scale, 1)
    model = LogisticRegression(C=1 / regularisation, class_weight="balanced", max_iter=1000)
    model.fit(((x - mean) / scale).numpy(), yes.numpy())
    weight = torch.from_numpy(model.coef_[0]) / scale
    return Probe(weight.float(), float(model.intercept_[0] - mean @ weight))


def separation(codes: Float[Tensor, "rows d_sae"], yes: Bool[Tensor, " rows"]) -> Float[Tensor, " d_sae"]:
    """The difference of each feature's two class means, in units of its standard deviation within the classes.

    So it does not matter in which units a feature's codes are. 0 for a feature that never fires.
    """
    there, not_there = codes[yes], codes[~yes]
    within = torch.cat([part - part.mean(dim=0) for part in (there, not_there)])
    spread = within.square().mean(dim=0).sqrt()
    difference = there.mean(dim=0) - not_there.mean(dim=0)
    return torch.where(difference == 0, 0, difference / spread.clamp_min(1e-12))


def largest(scores: Float[Tensor, " d_sae"], k: int) -> Int[Tensor, " k"]:
    """The k features of the largest scores, the largest first; of equals the first."""
    return scores.argsort(descending=True, stable=True)[:k]
