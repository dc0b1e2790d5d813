"""Gemma Scope: params.npz, JumpReLU autoencoders of Gemma 2.

Reference: Lieberum et al. 2024, "Gemma Scope: Open Sparse Autoencoders Everywhere All At Once on Gemma 2".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sleave.autoencoder.jumprelu import JumpReLUAutoencoder
from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.errors import SleaveError
from sleave.interop.weights import Weights, filled

WEIGHTS = "params.npz"


def read(path: Path) -> SparseAutoencoder:
    """Read params.npz, or any .npz file like it.

    Its transcoders are files of the same form, and cannot be told from autoencoders.

    Raises:
        SleaveError: not such a file, or damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            tensors = {name: torch.from_numpy(np.asarray(arrays[name], dtype=np.float32)) for name in arrays}
    except Exception as error:  # a damaged file may fail anywhere in zip, in zlib and in numpy's own header
        raise SleaveError(
            f"`{path}` cannot be read ({error}); it is not an .npz file of numbers, or was truncated or altered."
        ) from error
    return autoencoder(Weights(tensors, f"`{path}`"))


def autoencoder(weights: Weights) -> SparseAutoencoder:
    """What Gemma Scope's tensors say; its encoder does not subtract b_dec.

    Raises:
        SleaveError: tensors that do not fit.
    """
    d_in, d_sae = weights.matrix_shape("W_enc")
    features = (d_sae,)
    shapes = {"W_enc": (d_in, d_sae), "b_enc": features, "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    shapes["threshold"] = features
    return filled(JumpReLUAutoencoder(d_in, d_sae), weights.checked(shapes))
