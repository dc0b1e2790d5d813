from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_store import fill

from sleave.activations.store import Store


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    def make(chunks: int = 3, **changes: Any) -> Store:
        fill(tmp_path / "store", chunks, **changes)
        return Store.open(tmp_path / "store")

    return make
