"""Shapes and types in public signatures are checked in every test, and nowhere else."""

from collections.abc import Iterator

import pytest
from jaxtyping import install_import_hook

install_import_hook("sleave", "checking.checked")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models run several times faster on one thread, the more so beside other work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
