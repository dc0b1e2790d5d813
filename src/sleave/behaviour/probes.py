"""Logistic regression on features, activations or final states, and which features tell two classes apart."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
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


@dataclass(frozen=True)
class Probes:
    """Several probes of the same thing.

    Attributes:
        weight: (probes, topics, d_in).
        bias: (probes, topics).
    """

    weight: Float[Tensor, "probes topics d_in"]
    bias: Float[Tensor, "probes topics"]

    def topics(self, pooled: Float[Tensor, "documents d_in"]) -> Int64[Tensor, "probes documents"]:
        """The topic that each probe gives each document."""
        return (pooled @ self.weight.transpose(1, 2) + self.bias[:, None]).argmax(dim=2)


def fit_probes(
    pooled: Float[Tensor, "documents d_in"], topic: Int64[Tensor, " documents"], count: int, seed: int
) -> Probes:
    """Fit probes (multinomial logistic regressions), each to another bootstrap sample of the documents.

    Args:
        pooled: mean states.
        topic: the topic of each document, from 0; every topic is there.
        count: how many probes.
        seed: of the samples.
    """
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(C=0.1, max_iter=1000)
    mean, scale = pooled.mean(0), 1 / pooled.std(0).clamp_min(1e-6)
    x, y = ((pooled - mean) * scale).numpy(), topic.numpy()
    drawn = np.random.default_rng(seed)
    weights, biases = [], []
    for _ in range(count):
        # Within each topic, so that none is lost.
        rows = np.concatenate([drawn.choice(own, len(own)) for own in (np.flatnonzero(y == t) for t in np.unique(y))])
        fitted = regression.fit(x[rows], y[rows])
        weight = torch.from_numpy(np.atleast_2d(fitted.coef_)).float()
        bias = torch.from_numpy(np.atleast_1d(fitted.intercept_)).float()
        if len(weight) == 1:  # of two topics, scikit-learn gives the second's logit over the first's
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        weights.append(weight * scale)
        biases.append(bias - (weight * scale) @ mean)
    return Probes(torch.stack(weights), torch.stack(biases))


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
