"""Linear probes that read the topic of a document off the mean of what the model's head reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.unlearning.documents import Documents, Judge


@dataclass(frozen=True, eq=False)
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

    Raises:
        SleaveError: scikit-learn is not installed.
    """
    regression = _regression()
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


def _regression() -> Any:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise SleaveError(
            "Probes need scikit-learn, which is not installed: pip install 'sleave[evaluation]'."
        ) from error
    return LogisticRegression(C=0.1, max_iter=1000)


def probe_judge(documents: Documents, probes: Probes, topic: Sequence[int]) -> Judge:
    """Says of each document what share of the probes get its topic right."""

    def judge(batch: Sequence[int], finals: Sequence[Tensor]) -> Tensor:
        pooled = torch.stack([documents.mean_of_text(d, final) for d, final in zip(batch, finals, strict=True)])
        wanted = torch.tensor([topic[d] for d in batch])
        return (probes.topics(pooled.cpu()) == wanted).float().mean(dim=0)

    return judge
