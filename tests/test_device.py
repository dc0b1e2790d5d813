"""Which number format `auto` is, and what is said where another is slow."""

import pytest
import torch

from sleave.base import device
from sleave.base.device import choose_dtype, has_bfloat16, say_if_slow

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"avx2": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({}, False),
    ],
)
def test_auto_is_what_the_cpu_has_instructions_for(monkeypatch, capsys, capabilities, fast):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bfloat16(CPU) is fast
    assert choose_dtype("auto", CPU) is (torch.bfloat16 if fast else torch.float32)
    assert choose_dtype("bfloat16", CPU) is torch.bfloat16
    say_if_slow("training.precision", torch.bfloat16, CPU)
    said = capsys.readouterr().err
    assert ("training.precision = 'bfloat16' takes many times longer" in said) is not fast
    say_if_slow("training.precision", torch.float32, CPU)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("fast", [True, False])
def test_an_older_torch_tells_it_otherwise(monkeypatch, fast):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast, raising=False)
    assert device.has_bfloat16(CPU) is fast


def test_a_gpu_that_is_not_here_is_taken_to_be_recent():
    assert device.has_bfloat16(torch.device("cuda:77"))
