"""Where things are computed."""

from __future__ import annotations

import torch

from sleave.base.errors import SleaveError


def choose_device(name: str) -> torch.device:
    """The device of a setting: `auto` is the first GPU, or the CPU where there is none.

    Raises:
        SleaveError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SleaveError(
            f"`device` (= {name!r}) cannot be used here. Give 'auto', 'cpu' or a GPU's name ('cuda', 'cuda:1')."
        ) from error
    return device
