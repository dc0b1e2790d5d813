"""The codes of the last few batches, kept small: only what fires is stored."""

from __future__ import annotations

from collections import deque

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.base.errors import SleaveError


class Window:
    """The last `length` batches of codes; stacking them pools numerators and norms separately.

    C over the window is sum_b f_i.f_j / sqrt(sum_b |f_i|^2 sum_b |f_j|^2), which is C of the stacked rows.
    """

    def __init__(self, length: int) -> None:
        if length < 1:
            raise SleaveError(f"`window` (= {length}) must be at least 1: how many batches a choice of pairs looks at.")
        self.length = length
        self._batches: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=length - 1)  # shape, index, value

    def stack(self, acts: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "rows d_sae"]:
        """Every batch in the window, this one last: dense, length * batch * d_sae numbers while pairs are chosen."""
        earlier = [self._unpack(*b).to(acts) for b in self._batches]
        return torch.cat([*earlier, acts.detach()]) if earlier else acts.detach()

    def push(self, acts: Float[Tensor, "batch d_sae"]) -> None:
        """Remember a batch; the oldest is forgotten."""
        if self.length > 1:
            flat = acts.detach().flatten()
            index = flat.nonzero().squeeze(1)
            self._batches.append((torch.tensor(acts.shape), index, flat[index]))

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on as if never stopped."""
        names = ("shape", "index", "value")
        return {f"{n}.{name}": part for n, b in enumerate(self._batches) for name, part in zip(names, b, strict=True)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned."""
        self._batches.clear()
        for n in range(len(state) // 3):
            self._batches.append((state[f"{n}.shape"], state[f"{n}.index"], state[f"{n}.value"]))

    @staticmethod
    def _unpack(shape: Tensor, index: Tensor, value: Tensor) -> Tensor:
        rows, d_sae = (int(n) for n in shape)
        return value.new_zeros(rows * d_sae).scatter_(0, index, value).view(rows, d_sae)
