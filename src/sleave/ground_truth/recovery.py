"""How many of the true features an autoencoder has found."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def cosines(
    W_dec: Float[Tensor, "d_sae d_in"], directions: Float[Tensor, "features d_in"]
) -> Float[Tensor, "d_sae features"]:
    """|cosine| of each learned direction to each true one; 0 for a direction of norm zero."""
    learned, true = (torch.nn.functional.normalize(w.double(), dim=1) for w in (W_dec, directions))
    return (learned @ true.t()).abs()


def matching(cosine: Float[Tensor, "d_sae features"]) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    """The one-to-one matching of learned to true features of the largest sum of |cosine|."""
    from scipy.optimize import linear_sum_assignment

    learned, true = linear_sum_assignment(cosine.numpy(), maximize=True)
    return torch.from_numpy(learned), torch.from_numpy(true)


def uniqueness(cosine: Float[Tensor, "d_sae features"]) -> float:
    """True features that are nearest to any learned one, per learned feature; 1 if no two learned have the same."""
    return float(cosine.argmax(dim=1).unique().numel() / len(cosine))


def firing_f1(fired: Bool[Tensor, "rows pairs"], true: Bool[Tensor, "rows pairs"]) -> Float[Tensor, " pairs"]:
    """F1 of each learned feature's firing as a sign of its true one's; 0 where neither ever fires."""
    both = (fired & true).sum(dim=0)
    return 2 * both / (fired.sum(dim=0) + true.sum(dim=0)).clamp_min(1)
