"""Decoder directions that are alike, pushed apart: the penalty of OrtSAE."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import normalize

from sleave.base.errors import SleaveError
from sleave.codes.codes import Codes
from sleave.dependence.pairs import Pairs
from sleave.penalties.penalty import Penalty

TILE = 1024  # rows of a chunk's cosines that are held at once


class DecoderOrthogonality(Penalty):
    """weight * mean over features of the squared cosine with the nearest other decoder direction of its chunk.

    With u_i = W_dec_i / |W_dec_i|, and the features put into chunks at random in each call:

        weight / d_sae * sum over i of (max over j != i in the chunk of i of u_i.u_j)^2

    The largest cosine, with its sign: opposite directions are not alike. It looks at the decoder alone, so codes get no
    gradient. Which direction is the nearest is not differentiated; under autocast it is found in autocast's dtype, but
    the cosine itself is not computed in it. Only a tile of a chunk's cosines is held at once. Directions that are the
    same stay the same: at a cosine of 1 its gradient is 0.

    >>> import torch
    >>> penalty = DecoderOrthogonality(weight=0.5)
    >>> W_dec = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 2.0]])
    >>> round(float(penalty(torch.zeros(4, 3), W_dec)), 4)  # nearest: 0.6, 0.8, 0.8
    0.2733

    Args:
        weight: the paper's gamma, 0.25, beside a squared error in units of the paper's activations (docs/methods.md).
        chunk: how many features a chunk has at least; with fewer than twice as many features there is one chunk.
        seed: of the chunks.

    Reference: Korznikov et al. 2025, "OrtSAE: Orthogonal Sparse Autoencoders Uncover Atomic Features",
    arXiv 2509.22033.
    """

    chooses = False

    def __init__(self, weight: float = 0.25, chunk: int = 8192, seed: int = 0) -> None:
        super().__init__(weight)
        if chunk < 2:
            raise SleaveError(
                f"`chunk` (= {chunk}) must be at least 2: a feature alone has nothing to be compared with."
            )
        self.chunk = chunk
        self._generator = torch.Generator().manual_seed(seed)
        self._nearest: Tensor | None = None
        self._cosine: Tensor | None = None

    def __call__(
        self,
        acts: Float[Tensor, "batch d_sae"] | Codes,
        W_dec: Float[Tensor, "d_sae d_in"] | None = None,
        residual: Float[Tensor, "batch d_in"] | None = None,
    ) -> Float[Tensor, ""]:
        self.check(acts)
        if W_dec is None:
            raise SleaveError(
                "`W_dec` is missing. DecoderOrthogonality looks at the decoder's directions: call penalty(acts, W_dec)."
            )
        if len(W_dec) < 2:
            raise SleaveError(f"`W_dec` has {len(W_dec)} rows; there must be at least 2 features to push apart.")
        unit = normalize(W_dec.to(torch.promote_types(W_dec.dtype, torch.float32)), dim=1)
        order = torch.randperm(len(unit), generator=self._generator).to(unit.device)
        self._nearest = _nearest(unit.detach(), order.tensor_split(max(1, len(unit) // self.chunk)))
        cosine = (unit * unit.index_select(0, self._nearest)).sum(dim=1)
        self._cosine = cosine.detach()
        return self.weight * cosine.square().mean()

    @property
    def pairs(self) -> Pairs | None:
        """Each feature with its nearest of the last call, each pair once; None before the first."""
        if self._nearest is None or self._cosine is None:
            return None
        d_sae = len(self._nearest)
        own = torch.arange(d_sae, device=self._nearest.device)
        key = torch.minimum(own, self._nearest) * d_sae + torch.maximum(own, self._nearest)
        key, inverse = key.unique(return_inverse=True)
        score = self._cosine.new_empty(len(key)).index_copy_(0, inverse, self._cosine)
        return Pairs(key // d_sae, key % d_sae, score)

    def figures(self) -> dict[str, float]:
        """The mean of the squared cosines of the last call, and the largest cosine."""
        if self._cosine is None:
            return {}
        return {"mean_square": float(self._cosine.square().mean()), "largest": float(self._cosine.max())}

    def state(self) -> dict[str, Tensor]:
        return {"generator": self._generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self._generator.set_state(state["generator"].cpu())


@torch.no_grad()
def _nearest(unit: Float[Tensor, "d_sae d_in"], chunks: tuple[Tensor, ...]) -> Int64[Tensor, " d_sae"]:
    """For each feature, the other one of its chunk of largest cosine."""
    nearest = torch.empty(len(unit), dtype=torch.int64, device=unit.device)
    for chunk in chunks:
        rows = unit[chunk]
        for start in range(0, len(chunk), TILE):
            cosines = rows[start : start + TILE] @ rows.t()
            cosines.diagonal(start).fill_(-torch.inf)
            nearest[chunk[start : start + TILE]] = chunk[cosines.argmax(dim=1)]
    return nearest
