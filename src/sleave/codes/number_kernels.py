"""Numbers in kernels: float32, or bfloat16 as its bits (uint16), which numba has no type for."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import Tensor


def readable(numbers: Tensor) -> Tensor:
    """The same memory, as kernels read it."""
    return numbers.view(torch.uint16) if numbers.dtype == torch.bfloat16 else numbers


def number(stored):
    """In a kernel: what is stored, as float32."""


def stored(number, like):
    """In a kernel: a float32 as `like` is stored, rounded to the nearest, ties to even."""


@overload(number, inline="always")
def _number(stored):
    if not isinstance(stored, types.Integer):
        return lambda stored: stored
    return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)


@njit
def _rounded(number):
    if number != number:
        return np.uint16(0x7FC0)  # the bits of another NaN might overflow
    bits = np.float32(number).view(np.uint32)
    # Half of the last place that stays, less one, and that place's own bit: so what is half way goes to even.
    return np.uint16((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16))


@overload(stored, inline="always")
def _stored(number, like):
    if not isinstance(like, types.Integer):
        return lambda number, like: number
    return lambda number, like: _rounded(number)
