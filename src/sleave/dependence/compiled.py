"""How numba kernels are called: tensors in, tensors out, on as many threads as torch uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor


def compiled(kernel: Callable[..., Any], *arguments: Tensor | float) -> Any:
    """What a kernel returns for CPU tensors (not copied) and numbers: a tensor or number, or a tuple of them."""
    numba.set_num_threads(min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS))
    result = kernel(*(a.detach().numpy() if isinstance(a, Tensor) else a for a in arguments))
    return tuple(map(_tensor, result)) if isinstance(result, tuple) else _tensor(result)


def _tensor(value: Any) -> Any:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
