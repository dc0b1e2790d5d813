"""Where things are computed, and in what number format."""

from __future__ import annotations

import os
import shutil

import torch

from sleave.base.errors import SleaveError
from sleave.base.files import torch_dtype
from sleave.base.progress import say


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


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype of a setting: `auto` is bfloat16 where the device has instructions for it, float32 elsewhere."""
    if name == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    return torch_dtype(name)


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bfloat16 by instructions of its own; else it takes many times longer."""
    if device.type == "cuda":
        if (device.index or 0) >= torch.cuda.device_count():  # a plan may be of one that is not here: a recent one
            return True
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if not hasattr(torch.cpu, "get_capabilities"):  # torch < 2.10
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def check_compiler(setting: str, device: torch.device) -> None:
    """Refuse to compile where there is no compiler for torch.compile to call: of C++ for a CPU, of C for a GPU.

    Raises:
        SleaveError: there is none.
    """
    on_cpu = device.type == "cpu"
    variable, names = ("CXX", ("g++", "clang++", "c++", "cl")) if on_cpu else ("CC", ("gcc", "clang", "cc", "cl"))
    if not any(shutil.which(name) for name in (os.environ.get(variable, ""), *names)):
        raise SleaveError(
            f"`{setting}` (= true) needs a {'C++' if on_cpu else 'C'} compiler, and none was found: not ${variable}, "
            f"{', '.join(names[:-1])}, nor {names[-1]}. Install one (on Debian `apt install {names[0]}`), or leave the "
            "setting out."
        )


def say_if_slow(setting: str, dtype: torch.dtype, device: torch.device) -> None:
    """Say that bfloat16 was asked for where the device has no instructions for it."""
    if dtype == torch.bfloat16 and not has_bfloat16(device):
        where = "GPU" if device.type == "cuda" else "CPU"
        say(
            f"{setting} = 'bfloat16' takes many times longer than 'float32' on this {where}; 'auto' takes what is fast."
        )
