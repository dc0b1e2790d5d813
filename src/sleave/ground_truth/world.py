"""A small world of known features that are correlated, hierarchical and partly duplicated, by SAELens's `synthetic`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

FEATURES = 128
D_IN = 64  # fewer than features: they are in superposition
MOODS = 4  # what correlates them: Gaussian factors of each row
SHARED = 0.6  # of what decides whether a feature fires is those, the rest is its own
DUPLICATES = 8
DUPLICATE_COSINE = 0.9


@dataclass(frozen=True)
class World:
    """Activations and where they come from.

    Attributes:
        directions: of the true features, of norm one.
        x: activations, a row a token.
        acts: the true features' codes on the same rows, 0 where they do not fire.
    """

    directions: Float[Tensor, "features d_in"]
    x: Float[Tensor, "rows d_in"]
    acts: Float[Tensor, "rows features"]


def installed() -> bool:
    """Whether SAELens is there, and new enough to have synthetic models."""
    try:
        return hasattr(_synthetic(), "SyntheticModel")
    except ImportError:
        return False


def _synthetic() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of packages that SAELens imports
        return import_module("sae_lens.synthetic")


def make_world(seed: int, rows: int) -> World:
    """Draw a world and activations of it.

    128 features in 64 dimensions fire at rates from 0.15 down to 0.01, correlated as four Gaussian factors make them
    (up to 0.6 before they are cut into firing and not); 4 of them are parents without which their 3 children each, and
    these children's, do not fire; and of the others, 8 point almost the way that another 8 do (cosine 0.9).

    Args:
        seed: of the world and of the rows.
        rows: how many.
    """
    synthetic = _synthetic()
    moods = torch.randn(FEATURES, MOODS, generator=torch.Generator().manual_seed(seed))
    model = synthetic.SyntheticModel(
        synthetic.SyntheticModelConfig(
            num_features=FEATURES,
            hidden_dim=D_IN,
            firing_probability=synthetic.ZipfianFiringProbabilityConfig(exponent=0.6, max_prob=0.15, min_prob=0.01),
            hierarchy=synthetic.HierarchyConfig(
                total_root_nodes=4, branching_factor=3, max_depth=2, compensate_probabilities=True
            ),
            std_firing_magnitudes=0.2,
            seed=seed,
        ),
        correlation_matrix=synthetic.LowRankCorrelationMatrix(
            SHARED**0.5 * torch.nn.functional.normalize(moods, dim=1), torch.full((FEATURES,), 1 - SHARED)
        ),
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        directions = model.feature_dict.feature_vectors
        kept, turned = directions[-DUPLICATES:], directions[-2 * DUPLICATES : -DUPLICATES]
        across = torch.nn.functional.normalize(turned - (turned * kept).sum(dim=1, keepdim=True) * kept, dim=1)
        turned.copy_(DUPLICATE_COSINE * kept + (1 - DUPLICATE_COSINE**2) ** 0.5 * across)
        x, acts = model.sample_with_features(rows)
    return World(directions.detach(), x, acts)
