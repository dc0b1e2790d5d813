"""How numba kernels are called: tensors in, tensors out, on as many threads as torch uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from sleave.codes.codes import Codes


_plain = False


def on_cpu(x: Tensor | Codes) -> bool:
    """Whether kernels can take it. Elsewhere plain torch computes the same."""
    return x.device.type == "cpu" and not _plain


@contextmanager
def plain_torch() -> Iterator[None]:
    """Within, what is on a CPU is computed as on a GPU: by plain torch alone. For tests; it is slow."""
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


@contextmanager
def as_many_threads() -> Iterator[None]:
    """Numba on as many threads as torch uses. (Its own start would set torch's number to that of the cores.)"""
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def compiled(kernel: Callable[..., Any], *arguments: Tensor | float | tuple[float, ...]) -> Any:
    """What a kernel returns for CPU tensors (not copied) and numbers: a tensor or number, or a tuple of them."""
    with as_many_threads():
        result = kernel(*(a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments))
    return tuple(map(_tensor, result)) if isinstance(result, tuple) else _tensor(result)


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
