"""Statistics of activation rows, and the affine map that brings them to a common scale before training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from sleave.base.errors import SleaveError

ScalingKind = Literal["none", "norm", "standardise"]

BLOCK = 4096  # rows that are in float64 at a time


@dataclass(eq=False)
class Moments:
    """Running mean and centred second moment of rows, per dimension, in float64.

    Chan's update keeps them centred: residual streams reach mean/std = 3000, where raw moments lose everything.

    Attributes:
        count: number of rows seen.
        mean: mean of the rows.
        m2: sum over the rows of (x - mean)^2.

    Reference: Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", Eq. (2.1).
    """

    count: int
    mean: Float64[Tensor, " d_in"]
    m2: Float64[Tensor, " d_in"]

    @classmethod
    def empty(cls, d_in: int) -> Moments:
        """The moments of no rows."""
        return cls(0, torch.zeros(d_in, dtype=torch.float64), torch.zeros(d_in, dtype=torch.float64))

    def update(self, rows: Float[Tensor, "rows d_in"]) -> None:
        """Add rows of any floating dtype and device."""
        for block in rows.detach().split(BLOCK):
            x = block.to("cpu", torch.float64)
            mean = x.mean(0)
            self.merge(Moments(len(x), mean, (x - mean).square().sum(0)))

    def merge(self, other: Moments) -> None:
        """Add the rows that another `Moments` has seen."""
        if other.count == 0:
            return
        count = self.count + other.count
        delta = other.mean - self.mean
        self.mean = self.mean + delta * (other.count / count)
        self.m2 = self.m2 + other.m2 + delta.square() * (self.count * other.count / count)
        self.count = count

    @property
    def variance(self) -> Float64[Tensor, " d_in"]:
        """The population variance per dimension (m2 / count); needs at least one row."""
        return self.m2 / self.count

    @property
    def mean_squared_norm(self) -> float:
        """E||x||^2: summed over d_in, mean over rows; needs at least one row."""
        return float((self.variance + self.mean.square()).sum())


@dataclass(frozen=True, eq=False)
class Scaling:
    """The affine map between raw and scaled activations: y = (x - shift) * scale, per dimension, in float32."""

    shift: Float[Tensor, " d_in"]
    scale: Float[Tensor, " d_in"]

    @classmethod
    def identity(cls, d_in: int) -> Scaling:
        """The map that changes nothing."""
        return cls(torch.zeros(d_in), torch.ones(d_in))

    @classmethod
    def from_moments(cls, moments: Moments, kind: ScalingKind) -> Scaling:
        """The scaling that the rows behind `moments` call for.

        Args:
            moments: statistics of the training rows.
            kind: "none": identity; "norm": no shift and one factor, so that E||y||^2 = d_in; "standardise": mean 0 and
                variance 1 in each dimension. A dimension that is constant up to float32 rounding is only centred
                (scale 1): there is no spread to scale by, and dividing by rounding noise would blow it up.

        Raises:
            SleaveError: there are no rows, or all of them are zero.
        """
        d_in = len(moments.mean)
        if kind == "none":
            return cls.identity(d_in)
        if moments.count == 0 or moments.mean_squared_norm == 0:
            raise SleaveError(
                f"`scaling` (= {kind!r}) cannot be computed: all of the {moments.count} training rows are zero. "
                "Check the hooked layer and the text, or set `scaling` to 'none'."
            )
        square = moments.mean_squared_norm / d_in
        if kind == "norm":
            return cls(torch.zeros(d_in), torch.full((d_in,), square**-0.5))
        std = moments.variance.sqrt()
        rounding = torch.finfo(torch.float32).eps * moments.mean.abs().clamp(min=square**0.5)
        scale = torch.where(std > rounding, 1 / std, 1.0)
        return cls(moments.mean.float(), scale.float())

    def apply(self, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_in"]:
        """Raw activations to scaled ones."""
        return (x - self.shift) * self.scale

    def invert(self, y: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_in"]:
        """Scaled activations back to raw ones."""
        return y / self.scale + self.shift
