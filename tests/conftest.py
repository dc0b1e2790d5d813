"""Shapes and types in public signatures are checked in every test, and nowhere else."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Module by module, since numba can compile no function that is wrapped for checking. The estimator leaves to
# scikit-learn what it is given: its checks give it everything that it must refuse in scikit-learn's way.
SOURCE = Path(__file__).parents[1] / "src"
UNCHECKED = {"__init__", "estimator"}
FILES = [f for f in (SOURCE / "sleave").rglob("*.py") if f.stem not in UNCHECKED and not f.stem.endswith("kernels")]
install_import_hook([".".join(f.relative_to(SOURCE).with_suffix("").parts) for f in FILES], "checking.checked")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny models run several times faster on one thread, the more so beside other work."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
