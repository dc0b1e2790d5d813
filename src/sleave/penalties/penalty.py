"""What every penalty offers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.codes.codes import Codes
from sleave.dependence.pairs import Pairs


class Penalty(ABC):
    """A scalar to add to the loss: `loss = loss + penalty(acts)`.

    Attributes:
        weight: what the sum over pairs is multiplied by.
        chooses: whether it pushes chosen pairs apart, and not all.
    """

    chooses = True

    def __init__(self, weight: float) -> None:
        if not weight >= 0:
            raise SleaveError(f"`weight` (= {weight}) must be at least 0.")
        self.weight = weight

    @property
    @abstractmethod
    def pairs(self) -> Pairs | None:
        """The pairs that the last call pushed apart; None before the first call."""

    @abstractmethod
    def __call__(
        self,
        acts: Float[Tensor, "batch d_sae"] | Codes,
        W_dec: Float[Tensor, "d_sae d_in"] | None = None,
        residual: Float[Tensor, "batch d_in"] | None = None,
    ) -> Float[Tensor, ""]:
        """The penalty of a batch of codes.

        Args:
            acts: the codes, dense or of what fires (`sleave.Codes`).
            W_dec: decoder directions, for penalties that look at them; may be left out for others.
            residual: x_hat - x, for penalties that look at the reconstruction's gradient; likewise.
        """

    @abstractmethod
    def figures(self) -> dict[str, float]:
        """Numbers that say what the last call did, for the log."""

    @staticmethod
    def check(acts: object) -> None:
        """Refuse what is no batch of codes.

        Raises:
            SleaveError: neither a matrix nor `Codes`.
        """
        if not isinstance(acts, Codes) and not (isinstance(acts, Tensor) and acts.ndim == 2):
            shape = f" of shape {tuple(acts.shape)}" if isinstance(acts, Tensor) else ""
            raise SleaveError(
                f"`acts` is a {type(acts).__name__}{shape}; it must be a torch tensor (batch, d_sae), or sleave.Codes."
            )

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on as if never stopped (nothing, for a penalty without memory)."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned."""
        assert not state
