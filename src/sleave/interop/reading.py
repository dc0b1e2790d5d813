"""`sleave.load`: whatever library wrote it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.errors import SleaveError
from sleave.interop import dictionary_learning, gemma_scope, sae_lens, sparsify

ACCEPTED = (
    f"Give a run directory of a finished `sleave train`, or what another library saved: SAELens ({sae_lens.CONFIG} and "
    f"{sae_lens.WEIGHTS}), dictionary_learning ({dictionary_learning.WEIGHTS} and {dictionary_learning.CONFIG}), "
    f"sparsify ({sparsify.CONFIG} and {sparsify.WEIGHTS}) or Gemma Scope ({gemma_scope.WEIGHTS})."
)


def load(path: str | Path, *, sample: Tensor | None = None) -> SparseAutoencoder:
    """Read an autoencoder of raw activations, which gives the codes and reconstructions of the library that wrote it.

    Read are a run directory of sleave; SAELens's folder, of any version, and the checkpoints of its training;
    dictionary_learning's folder, ae.pt or checkpoints; sparsify's folder; and Gemma Scope's params.npz or folder.
    BatchTopK comes as JumpReLU with its threshold, so that a row's codes do not depend on what else is in the batch.

    Its weights do not require gradients; to train it further, call `.requires_grad_(True)`.

    Args:
        path: the folder or the file.
        sample: raw activations (rows, d_in), needed by the few files that leave something open: a SAELens checkpoint
            that reads scaled activations and does not say by how much, and a BatchTopK threshold that was never set.

    Raises:
        SleaveError: no such file, one that is damaged or not what it says, an autoencoder that cannot be read, or
            something open and no sample.
    """
    path = Path(path)
    if not path.exists():
        raise SleaveError(f"`{path}` does not exist. {ACCEPTED}")
    if path.suffix == ".npz":
        return gemma_scope.read(path)
    if path.suffix == ".pt":
        return dictionary_learning.read(path, sample)
    if path.name in (sae_lens.WEIGHTS, sparsify.WEIGHTS):
        path = path.parent
    folder = path / "sae" if (path / "sae").is_dir() else path
    if (folder / sparsify.WEIGHTS).is_file():
        return sparsify.read(folder)
    if (folder / dictionary_learning.WEIGHTS).is_file():
        return dictionary_learning.read(folder / dictionary_learning.WEIGHTS, sample)
    if (folder / gemma_scope.WEIGHTS).is_file():
        return gemma_scope.read(folder / gemma_scope.WEIGHTS)
    if (folder / sae_lens.WEIGHTS).is_file() or (folder / sae_lens.CONFIG).is_file():
        return sae_lens.read(folder, sample)
    raise SleaveError(f"`{path}` holds no autoencoder. {ACCEPTED}")
