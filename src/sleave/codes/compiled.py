"""How numba kernels are called: tensors in, tensors out, on as many threads as torch uses."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from torch import Tensor

from sleave.base.files import exclusive
from sleave.base.progress import say
from sleave.codes import kernels

if TYPE_CHECKING:
    from sleave.codes.codes import Codes

NOTICED = 2.0  # seconds after which people ask what takes so long

_plain = False
_ready: set[Hashable] = set()  # kernels, with the types that they are compiled for


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
        result = call(kernel, *(a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments))
    return tuple(map(_tensor, result)) if isinstance(result, tuple) else _tensor(result)


def call(kernel: Any, *arguments: Any) -> Any:
    """What a kernel returns for numpy arrays, numbers and tuples of them.

    With types that it has not been given before it is compiled, or loaded if it ever was: by one process at a time, on
    one machine. Others that start at the same moment then find it compiled; and of two that write into numba's cache at
    once, each may leave there what the other's types are said to have.
    """
    form = (kernel, *map(_form, arguments))
    if form not in _ready:
        began = time.monotonic()
        # One lock for all kernels, since what they call is compiled with them.
        with exclusive(Path(kernels.span.stats.cache_path), wait=True):
            kernel.compile(tuple(map(numba.typeof, arguments)))
        if time.monotonic() - began > NOTICED:
            _say_that_it_takes_longer()
        _ready.add(form)
    return kernel(*arguments)


@cache
def _say_that_it_takes_longer() -> None:
    say("Compiling what this machine has not run before; it is kept, and only this run starts up to a minute later.")


def _form(argument: Any) -> Any:
    if isinstance(argument, np.ndarray):
        return argument.dtype, argument.ndim, argument.flags.num
    return tuple(map(_form, argument)) if isinstance(argument, tuple) else type(argument)


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
