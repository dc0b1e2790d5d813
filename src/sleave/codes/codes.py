"""Codes of some rows, keeping only what fires: by row and by feature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.base.ranks import ALONE, Ranks
from sleave.codes import kernels
from sleave.codes.compiled import compiled, on_cpu


@dataclass(frozen=True, eq=False)
class Codes:
    """Codes (batch, d_sae) of which few are not zero.

    Everything that two features share lies where both fire, so this is what dependence is computed from. Within a row
    features ascend; a code of exactly zero does not fire, any other does.

    Attributes:
        d_sae: how many features there are.
        start: (batch + 1,) where each row begins in `feature` and `value`.
        feature: which features fire, row after row.
        value: their codes, float32, or float64 if they came so.
    """

    d_sae: int
    start: Int[Tensor, " batch_plus_1"]
    feature: Int[Tensor, " active"]
    value: Float[Tensor, " active"]

    @staticmethod
    def from_dense(acts: Tensor) -> Codes:
        """Keep what is not zero in codes (batch, d_sae), without their gradient.

        Raises:
            SleaveError: not a matrix, fewer than two features, no rows, NaN or infinite values.
        """
        if not isinstance(acts, Tensor):
            raise SleaveError(
                f"`acts` is a {type(acts).__name__}; it must be a torch tensor (torch.from_numpy makes one)."
            )
        if acts.ndim != 2 or acts.shape[1] < 2 or acts.shape[0] < 1:
            raise SleaveError(
                f"`acts` has shape {tuple(acts.shape)}; it must be (batch, d_sae), with d_sae at least 2."
            )
        acts = acts.detach()
        acts = acts if acts.dtype == torch.float64 else acts.float()
        if on_cpu(acts):
            return _finite(Codes(acts.shape[1], *compiled(kernels.compress, acts.contiguous())))
        row, feature = acts.nonzero(as_tuple=True)
        return _finite(Codes(acts.shape[1], row_starts(row, len(acts)), feature, acts[row, feature]))

    @staticmethod
    def from_topk(values: Tensor, indices: Tensor, d_sae: int) -> Codes:
        """Codes given as (batch, k) values and their features, as TopK autoencoders have them; zeros are dropped.

        What is computed from them is differentiable in the values.

        Raises:
            SleaveError: the shapes differ, an index is outside [0, d_sae) or twice in a row, NaN or infinite values.
        """
        if not (isinstance(values, Tensor) and isinstance(indices, Tensor)):
            raise SleaveError("`values` and `indices` must be torch tensors (torch.from_numpy makes one of an array).")
        if values.shape != indices.shape or values.ndim != 2 or len(values) < 1:
            raise SleaveError(
                f"`values` has shape {tuple(values.shape)}, `indices` {tuple(indices.shape)}; both must be (batch, k)."
            )
        if d_sae < 2 or (indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < d_sae):
            raise SleaveError(f"`indices` must lie in [0, {d_sae}), with d_sae (= {d_sae}) at least 2.")
        values = values if values.dtype == torch.float64 else values.float()
        feature, order = indices.long().sort(dim=1)
        value = values.gather(1, order)
        active = value != 0
        row = active.nonzero(as_tuple=True)[0]
        feature = feature[active]
        if bool(((row[1:] == row[:-1]) & (feature[1:] == feature[:-1])).any()):
            raise SleaveError("`indices` names a feature twice in one row; each row must name a feature at most once.")
        return _finite(Codes(d_sae, row_starts(row, len(values)), feature, value[active]))

    @staticmethod
    def cat(parts: Sequence[Codes]) -> Codes:
        """The rows of several batches, one after the other.

        Raises:
            SleaveError: they differ in width.
        """
        if len(parts) == 1:
            return parts[0]
        if len(widths := sorted({part.d_sae for part in parts})) > 1:
            raise SleaveError(f"Batches of {' and '.join(map(str, widths))} features; all must be of one autoencoder.")
        offset, starts = 0, [parts[0].start[:1]]
        for part in parts:
            starts.append(part.start[1:] + offset)
            offset += part.feature.numel()
        feature, value = torch.cat([p.feature for p in parts]), torch.cat([p.value for p in parts])
        return Codes(parts[0].d_sae, torch.cat(starts), feature, value)

    def gathered(self, ranks: Ranks) -> Codes:
        """Those of all ranks, one after the other; differentiable as `Ranks.cat`."""
        if ranks.size == 1:
            return self
        per_row, feature, value = (ranks.cat(part) for part in (self.start.diff(), self.feature, self.value))
        return Codes(self.d_sae, torch.cat([self.start[:1], per_row.cumsum(0)]), feature, value)

    def merged(self, features: Ranks) -> Codes:
        """The same rows with the features of all ranks, those of the first before the others; differentiable."""
        if features.size == 1:
            return self
        d_sae = self.d_sae * features.size
        row = features.cat(self.row)
        feature = features.cat(self.feature + features.rank * self.d_sae)
        value = features.cat(self.value, averaged=False)
        order = torch.argsort(row * d_sae + feature)
        return Codes(d_sae, row_starts(row, self.rows), feature[order], value[order])

    def __repr__(self) -> str:
        return f"Codes({self.rows:,} rows, {self.d_sae:,} features, {self.value.numel():,} active)"

    def with_value(self, value: Float[Tensor, " active"]) -> Codes:
        """The same entries with other values (a zero among them still counts as one that fires)."""
        other = Codes(self.d_sae, self.start, self.feature, value)
        known = ("row", "fired", "by_feature", "coactivations")
        other.__dict__.update({name: self.__dict__[name] for name in known if name in self.__dict__})
        return other

    def where(self, kept: Bool[Tensor, " active"]) -> Codes:
        """Some of the entries."""
        start = row_starts(self.row[kept], self.rows)
        return Codes(self.d_sae, start, self.feature[kept], self.value[kept])

    def at_rows(self, kept: Bool[Tensor, " batch"]) -> Codes:
        """Some of the rows."""
        per_row = self.start.diff()
        entries = torch.repeat_interleave(kept, per_row)
        start = torch.cat([self.start[:1], per_row[kept].cumsum(0)])
        return Codes(self.d_sae, start, self.feature[entries], self.value[entries])

    def detach(self) -> Codes:
        """The same codes without their gradient."""
        return self.with_value(self.value.detach())

    @property
    def shape(self) -> tuple[int, int]:
        """(batch, d_sae)."""
        return self.rows, self.d_sae

    @property
    def rows(self) -> int:
        """N, how many rows there are, those where nothing fires included."""
        return self.start.numel() - 1

    @property
    def device(self) -> torch.device:
        return self.value.device

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype

    @cached_property
    def row(self) -> Int[Tensor, " active"]:
        """The row of each entry."""
        rows = torch.arange(self.rows, device=self.device)
        return torch.repeat_interleave(rows, self.start.diff())

    @cached_property
    def fired(self) -> Int[Tensor, " d_sae"]:
        """On how many rows each feature fires."""
        return torch.bincount(self.feature, minlength=self.d_sae)

    @cached_property
    def by_feature(self) -> tuple[Int[Tensor, " d_sae_plus_1"], Int[Tensor, " active"]]:
        """Where each feature begins in an order of the entries by (feature, row), and that order."""
        start = torch.cat([self.fired.new_zeros(1), self.fired.cumsum(0)])
        if on_cpu(self):
            return start, compiled(kernels.order_by_feature, self.feature, start)
        return start, torch.argsort(self.feature, stable=True)

    @cached_property
    def coactivations(self) -> int:
        """How many times any two features fire together: what a pass over all co-activations costs."""
        per_row = self.start.diff()
        return int((per_row * (per_row - 1) // 2).sum())

    def moments(self, centred: bool, ranks: Ranks = ALONE) -> tuple[Float[Tensor, " d_sae"], Float[Tensor, " d_sae"]]:
        """Mean (0 if not centred) and inverse norm of each column, in float64; 0 for a column that has no norm.

        See `correlation.unit_columns`, which has the same of dense codes. Columns go on over all ranks, of which each
        has as many rows.
        """
        value = self.value.double()
        zeros = value.new_zeros(self.d_sae)
        mean = ranks.sum(zeros.index_add(0, self.feature, value)) / (self.rows * ranks.size) if centred else zeros
        square = ranks.sum(zeros.index_add(0, self.feature, value.square()))
        off = zeros.index_add(0, self.feature, (value - mean[self.feature]).square())
        norm = ranks.sum(off + (self.rows - self.fired) * mean.square()).sqrt()
        return mean, torch.where(norm > 1e-6 * square.sqrt(), 1 / norm, 0)

    def columns(self, features: Int[Tensor, " some"]) -> Float[Tensor, "batch some"]:
        """The dense columns of some features, each named once; differentiable."""
        place = torch.full((self.d_sae,), -1, device=self.device)
        place[features] = torch.arange(len(features), device=self.device)
        some = (place[self.feature] >= 0).nonzero().flatten()
        return self.value.new_zeros(self.rows, len(features)).index_put(
            (self.row[some], place[self.feature[some]]), self.value[some]
        )

    def __len__(self) -> int:
        return self.rows

    def dense_blocks(self, size: int = 4096) -> Iterator[Float[Tensor, "rows d_sae"]]:
        """The dense codes, some rows at a time."""
        for first in range(0, self.rows, size):
            start = self.start[first : first + size + 1]
            inside = slice(int(start[0]), int(start[-1]))
            yield Codes(self.d_sae, start - start[0], self.feature[inside], self.value[inside]).to_dense()

    def to_dense(self) -> Float[Tensor, "batch d_sae"]:
        """All batch * d_sae numbers; differentiable."""
        return self.value.new_zeros(self.rows, self.d_sae).index_put((self.row, self.feature), self.value)


def as_codes(acts: Tensor | Codes) -> Codes:
    """What fires in codes of either kind, without their gradient."""
    return acts.detach() if isinstance(acts, Codes) else Codes.from_dense(acts)


def few_coactivations(acts: Tensor, most: float) -> Codes | None:
    """The codes (batch, d_sae), if they are on a CPU and features fire together at most so often; else None.

    Counts before it copies anything.
    """
    if not on_cpu(acts):
        return None
    acts = acts.detach().contiguous()
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[acts.element_size()]
    magnitude = torch.iinfo(bits).max
    per_row = compiled(kernels.count_nonzero, acts.view(bits), magnitude)
    return Codes.from_dense(acts) if int((per_row * (per_row - 1)).sum()) <= 2 * most else None


def row_starts(row: Int[Tensor, " active"], rows: int) -> Int[Tensor, " batch_plus_1"]:
    """Where each of so many rows begins, given the row of each entry."""
    counts = torch.bincount(row, minlength=rows)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


def _finite(codes: Codes) -> Codes:
    finite = torch.isfinite(codes.value.detach())
    if not bool(finite.all()):
        bad = int(codes.feature[~finite].unique().numel())
        raise SleaveError(
            f"`acts` holds NaN or infinite values in {bad} of {codes.d_sae} features; "
            "no dependence can be computed. Check the inputs, or lower the learning rate."
        )
    return codes
