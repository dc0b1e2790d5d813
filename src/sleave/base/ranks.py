"""Processes that train one autoencoder together, each on its share of every batch (`torchrun`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from sleave.base.errors import SleaveError
from sleave.base.launch import launched_together

TIMEOUT = timedelta(days=1)  # one rank may read text through a model while the others wait


class Ranks:
    """Who else there is, and sums over all of them. Alone, every method gives back what it was given.

    Attributes:
        rank: this process, from 0.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files and tells the user."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """Which of so many rows are this rank's.

        Raises:
            SleaveError: they cannot be shared out evenly.
        """
        if rows % self.size:
            raise SleaveError(
                f"A batch of {rows} rows cannot be shared out evenly among {self.size} processes. Change "
                "buffer.batch_contexts (a batch is so many times harvest.context_length rows), or --nproc-per-node."
            )
        each = rows // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over ranks; every rank gets the same."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over ranks."""
        return tensor if self.size == 1 else self.sum(tensor) / self.size

    def least(self, tensor: Tensor) -> Tensor:
        """The smallest over ranks."""
        return self._reduced(tensor, dist.ReduceOp.MIN)

    def all(self, condition: bool) -> bool:
        """Whether it holds on every rank: for decisions that all must take alike."""
        return condition if self.size == 1 else bool(self.least(torch.tensor(int(condition))))

    def most(self, number: int) -> int:
        """The largest over ranks."""
        return number if self.size == 1 else -int(self.least(torch.tensor(-number)))

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Each rank's tensor, in their order; they may differ in their first dimension."""
        if self.size == 1:
            return [tensor]
        lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        _together(dist.all_gather, lengths, torch.tensor([len(tensor)]))
        longest = max(int(n) for n in lengths)
        padded = tensor.new_zeros(longest, *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        _together(dist.all_gather, parts, padded)
        return [part[: int(n)] for part, n in zip(parts, lengths, strict=True)]

    def cat(self, tensor: Tensor) -> Tensor:
        """Each rank's rows, one after the other; differentiable, as if the gradients were then averaged over ranks."""
        if self.size == 1:
            return tensor
        whole: Tensor = _Cat.apply(tensor, self)
        return whole

    @torch.no_grad()
    def average_(self, tensor: Tensor) -> None:
        """Put the mean over ranks in its place."""
        if self.size > 1:
            tensor.copy_(self.mean(tensor))

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
            _together(dist.broadcast, whole, 0)
            tensor.copy_(whole)

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            self.sum(torch.zeros(1))

    def _reduced(self, tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size == 1:
            return tensor
        whole = tensor.detach().clone(memory_format=torch.contiguous_format)
        _together(dist.all_reduce, whole, operation)
        return whole


def _together(operation: Callable[..., Any], *arguments: Any) -> None:
    try:
        operation(*arguments)
    except RuntimeError as error:
        raise SleaveError(
            "Another of the processes that torchrun started has stopped; if it was by a mistake, it says which. "
            f"({str(error).strip().splitlines()[0]})"
        ) from error


class _Cat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        parts = ranks.gather(tensor)
        before = sum(len(part) for part in parts[: ranks.rank])
        ctx.own, ctx.size = slice(before, before + len(tensor)), ranks.size
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ctx.own] * ctx.size, None


ALONE = Ranks()
_current = ALONE


def current() -> Ranks:
    """The ranks whose rows belong to one batch, within a training step; elsewhere, this process alone."""
    return _current


@contextmanager
def sharing(ranks: Ranks) -> Iterator[None]:
    """Within the block, a batch is what all ranks have of it: every rank must come by here, with as many rows."""
    global _current  # not a context variable: autograd computes a checkpointed pass again on a thread of its own
    former, _current = _current, ranks
    try:
        yield
    finally:
        _current = former


@contextmanager
def joined() -> Iterator[Ranks]:
    """Within the block, the ranks that `torchrun` started this process as one of; alone without it.

    A GPU is that of the process's number on its machine.

    Raises:
        SleaveError: torch was built without support for it.
    """
    if not launched_together() or dist.is_initialized():
        yield Ranks(dist.get_rank(), dist.get_world_size()) if launched_together() else ALONE
        return
    if not dist.is_available():
        raise SleaveError("This build of torch has no torch.distributed, which more than one process needs.")
    # Imported once there is a group, its default arguments would hold it for good, and abort the process at its end.
    import torch.distributed.nn

    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        ranks = Ranks(dist.get_rank(), dist.get_world_size())
        yield ranks
        ranks.wait()  # who leaves first cuts off the others
    finally:
        dist.destroy_process_group()
