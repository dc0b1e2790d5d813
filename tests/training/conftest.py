from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toy_run import make_store


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy store of 56 training rows at layer 3, not to be altered."""
    return make_store(tmp_path_factory.mktemp("toy") / "store")


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Problems this small are computed sooner by one thread than handed out to several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
