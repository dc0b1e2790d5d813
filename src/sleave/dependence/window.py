"""The codes of the last few batches, kept small: only what fires is stored."""

from __future__ import annotations

from collections import deque

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.codes.codes import Codes, as_codes


class Window:
    """The last `length` batches of codes; their rows together pool numerators and norms separately.

    C over the window is sum_b f_i.f_j / sqrt(sum_b |f_i|^2 sum_b |f_j|^2), which is C of all the rows.
    """

    def __init__(self, length: int) -> None:
        if length < 1:
            raise SleaveError(f"`window` (= {length}) must be at least 1: how many batches a choice of pairs looks at.")
        self.length = length
        self._batches: deque[Codes] = deque(maxlen=length)

    def push(self, acts: Float[Tensor, "batch d_sae"] | Codes) -> None:
        """Remember a batch; the oldest is forgotten."""
        self._batches.append(as_codes(acts))

    def codes(self) -> Codes:
        """Every batch in the window, the last one last."""
        return Codes.cat(self._batches)

    def state(self) -> dict[str, Tensor]:
        """Everything needed to go on as if never stopped."""
        state = {}
        for n, codes in enumerate(self._batches):
            state[f"{n}.start"], state[f"{n}.value"] = codes.start, codes.value
            state[f"{n}.feature"] = codes.feature.int()  # half the size
            state[f"{n}.d_sae"] = torch.tensor(codes.d_sae)
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` returned."""
        self._batches.clear()
        for n in range(len(state) // 4):
            start, feature, value = (state[f"{n}.{name}"] for name in ("start", "feature", "value"))
            self._batches.append(Codes(int(state[f"{n}.d_sae"]), start, feature.long(), value))
