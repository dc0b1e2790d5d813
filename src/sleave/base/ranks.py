"""Processes that train one autoencoder together (`torchrun`): shares of every batch, parts of the dictionary."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from sleave.base.errors import SleaveError
from sleave.base.launch import launched_together

TIMEOUT = timedelta(days=1)  # the first process may check every file of a store while the others wait


class Ranks:
    """Who else there is, and sums over all of them. Alone, every method gives back what it was given.

    Attributes:
        rank: this process, from 0.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank, self.size = rank, size
        self._group = group

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and tells the user."""
        return self.rank == 0

    def share(self, rows: int, parts: int = 1) -> Int64[Tensor, " share"]:
        """Which of so many rows are this rank's: its share of each of some parts, one after the other.

        Raises:
            SleaveError: they cannot be shared out evenly.
        """
        if rows % (self.size * parts):
            among = f"{self.size} process{'es' if self.size > 1 else ''}"
            among += f" in {parts} parts (training.accumulation)" if parts > 1 else ""
            raise SleaveError(
                f"A batch of {rows} rows cannot be shared out evenly among {among}. Change buffer.batch_contexts (a "
                "batch is so many times harvest.context_length rows), or --nproc-per-node."
            )
        return torch.arange(rows).view(parts, self.size, -1)[:, self.rank].flatten()

    def part(self, length: int) -> slice:
        """Which of so many features, that are shared out evenly, are this rank's."""
        return slice(self.rank * length // self.size, (self.rank + 1) * length // self.size)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks; every rank gets the same."""
        return self._reduced(tensor, "SUM")

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over ranks."""
        return tensor if self.size == 1 else self.sum(tensor) / self.size

    def least(self, tensor: Tensor) -> Tensor:
        """The smallest over ranks."""
        return self._reduced(tensor, "MIN")

    def all(self, condition: bool) -> bool:
        """Whether it holds on every rank: for decisions that all must take alike."""
        return condition if self.size == 1 else bool(self.least(torch.tensor(int(condition))))

    def any(self, condition: bool) -> bool:
        """Whether it holds on some rank."""
        return not self.all(not condition)

    def number_of_first(self, number: int) -> int:
        """What the first rank has; the others' is not looked at."""
        return number if self.size == 1 else int(self.sum(torch.tensor(number if self.first else 0)))

    def of_first(self, tensor: Tensor) -> Tensor:
        """The first rank's, whose first dimension may be another."""
        return tensor if self.size == 1 else self.gather(tensor if self.first else tensor[:0])[0]

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Each rank's tensor, in their order; they may differ in their first dimension."""
        if self.size == 1:
            return [tensor]
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        _collective(dist.all_gather, lengths, torch.tensor([len(tensor)]), self._group)
        longest = max(int(n) for n in lengths)
        padded = tensor.new_zeros(longest, *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        _collective(dist.all_gather, parts, padded, self._group)
        return [part[: int(n)] for part, n in zip(parts, lengths, strict=True)]

    def cat(self, tensor: Tensor, averaged: bool = True) -> Tensor:
        """Each rank's part, one after the other; differentiable, on the understanding that every rank goes on alike.

        Args:
            tensor: of this rank; they may differ in their first dimension.
            averaged: whether gradients are averaged over these ranks afterwards.
        """
        if self.size == 1:
            return tensor
        whole: Tensor = _Cat.apply(tensor, self, self.size if averaged else 1)
        return whole

    def added(self, tensor: Tensor) -> Tensor:
        """The sum over ranks; differentiable, on the understanding that every rank goes on with it alike."""
        if self.size == 1:
            return tensor
        total: Tensor = _Added.apply(tensor, self)
        return total

    @torch.no_grad()
    def sum_(self, tensor: Tensor) -> None:
        """Put the sum over ranks in its place."""
        if self.size > 1:
            tensor.copy_(self.sum(tensor))

    def fill_(self, tensor: Tensor) -> None:
        """Put together what each rank has of it where the others have zeros, to the last bit."""
        if self.size > 1 and tensor.numel():
            # As integers, of which no sum is rounded.
            whole = tensor.view(torch.int32 if tensor.shape[-1] * tensor.element_size() % 4 == 0 else torch.uint8)
            whole.copy_(self.sum(whole))

    @torch.no_grad()
    def take_first_(self, tensor: Tensor) -> None:
        """Put the first rank's in its place."""
        if self.size > 1:
            whole = tensor.contiguous()
            _collective(dist.broadcast, whole, 0)
            tensor.copy_(whole)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            self.sum(torch.zeros(1))

    def _reduced(self, tensor: Tensor, operation: str) -> Tensor:
        if self.size == 1:
            return tensor
        whole = tensor.detach().clone(memory_format=torch.contiguous_format)
        _collective(dist.all_reduce, whole, getattr(dist.ReduceOp, operation), self._group)
        return whole


def _together(operation: Callable[..., Any], *arguments: Any) -> None:
    try:
        operation(*arguments)
    except RuntimeError as error:
        raise SleaveError(
            "The processes that torchrun started cannot reach each other; most likely one has stopped, and says why. "
            f"({str(error).strip().splitlines()[0]})"
        ) from error


_collective = _together  # `joined` has it left out of compiled code: what that imports takes a second


class _Cat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks, scale: int) -> Tensor:
        parts = ranks.gather(tensor)
        before = sum(len(part) for part in parts[: ranks.rank])
        ctx.own, ctx.scale = slice(before, before + len(tensor)), scale
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.own] * ctx.scale, None, None


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        return ranks.sum(tensor)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


ALONE = Ranks()


@dataclass(frozen=True)
class Mesh:
    """Which processes share what: a grid of those that share a batch and those that share a dictionary.

    Attributes:
        rows: those with the same features and other rows of the batch.
        features: those with the same rows and other features.
        everyone: all of them.
    """

    rows: Ranks = ALONE
    features: Ranks = ALONE
    everyone: Ranks = ALONE


_current = Mesh()


def current() -> Mesh:
    """The processes that take a training step together, within it; elsewhere, this one alone."""
    return _current


@contextmanager
def sharing(mesh: Mesh) -> Iterator[None]:
    """Within the block, a batch and its codes are what all have of them: every process must come by here."""
    global _current  # not a context variable: autograd computes a checkpointed pass again on a thread of its own
    former, _current = _current, mesh
    try:
        yield
    finally:
        _current = former


@contextmanager
def joined(shards: int = 1, device: str = "auto") -> Iterator[Mesh]:
    """Within the block, the processes that `torchrun` started this one as one of; alone without it.

    A GPU is that of the process's number on its machine.

    Args:
        shards: how many have a part of the dictionary each; neighbours in the order of their ranks.
        device: what the settings have: `auto`, `cpu` or `cuda`.

    Raises:
        SleaveError: torch was built without support for it; or there are no so many processes, or too few GPUs.
    """
    if not launched_together():
        _check_shards(shards, 1)
        yield Mesh()
        return
    if not dist.is_available():
        raise SleaveError("This build of torch has no torch.distributed, which more than one process needs.")
    if dist.is_initialized():
        yield _mesh(shards)
        return
    # Imported once there is a group, its default arguments would hold it for good, and abort the process at its end.
    import torch.distributed.nn

    backend = "gloo"
    if device != "cpu" and torch.cuda.is_available():
        _take_gpu(device)
        backend = "cpu:gloo,cuda:nccl"
    global _collective
    _collective = torch.compiler.disable(_together)  # compiled, it would be kept, and the group with it
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        mesh = _mesh(shards)
        yield mesh
        mesh.everyone.wait()  # who leaves first cuts off the others
    finally:
        dist.destroy_process_group()


def _take_gpu(device: str) -> None:
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if device not in ("auto", "cuda"):
        raise SleaveError(f"`device` (= {device!r}) must be 'auto', 'cuda' or 'cpu' where there are several processes.")
    if number >= there:
        raise SleaveError(
            f"This is process {number + 1} of this machine, which has {there} GPUs. Lower --nproc-per-node, or compute "
            "on the CPU (--training.device cpu --model.device cpu)."
        )
    torch.cuda.set_device(number)


def _mesh(shards: int) -> Mesh:
    rank, size = dist.get_rank(), dist.get_world_size()
    _check_shards(shards, size)
    everyone = Ranks(rank, size)
    if shards == 1:
        return Mesh(everyone, ALONE, everyone)
    if shards == size:
        return Mesh(ALONE, everyone, everyone)
    grid = torch.arange(size).view(-1, shards)
    rows, _ = dist.new_subgroups_by_enumeration(grid.t().tolist(), timeout=TIMEOUT)
    features, _ = dist.new_subgroups_by_enumeration(grid.tolist(), timeout=TIMEOUT)
    row, feature = divmod(rank, shards)
    return Mesh(Ranks(row, size // shards, rows), Ranks(feature, shards, features), everyone)


def _check_shards(shards: int, size: int) -> None:
    if size % shards:
        raise SleaveError(
            f"training.shards (= {shards}) must divide the number of processes, which is {size}: "
            f"torchrun --nproc-per-node={shards} -m sleave train ..."
        )
