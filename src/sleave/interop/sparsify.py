"""EleutherAI's sparsify: cfg.json beside sae.safetensors, as its `SparseCoder.save_to_disk` writes them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sleave.autoencoder.model import SparseAutoencoder
from sleave.autoencoder.topk import TopKAutoencoder
from sleave.base.errors import SleaveError
from sleave.base.files import load_tensors
from sleave.interop.weights import Weights, filled, k_of, read_settings

CONFIG = "cfg.json"
WEIGHTS = "sae.safetensors"
DEFAULT_K = 32
REFUSED = {
    "transcode": "a transcoder: it reconstructs another activation than the one it reads",
    "skip_connection": "its reconstruction has a linear part besides the features",
    "signed": "features fire with either sign",
}


def read(folder: Path) -> SparseAutoencoder:
    """Read sparsify's folder.

    Raises:
        SleaveError: see `autoencoder`.
    """
    tensors, _ = load_tensors(folder / WEIGHTS)
    return autoencoder(read_settings(folder / CONFIG), Weights(tensors, f"`{folder / WEIGHTS}`"))


def autoencoder(config: Mapping[str, Any], weights: Weights) -> SparseAutoencoder:
    """What a SparseCoder's settings (with d_in) and tensors say.

    Raises:
        SleaveError: a kind that is no TopK autoencoder, or tensors that do not fit.
    """
    for key, reason in REFUSED.items():
        if config.get(key):
            raise SleaveError(f"{weights.where} has {key} = true: {reason}. sleave reads TopK autoencoders.")
    if (activation := config.get("activation", "topk")) != "topk":
        raise SleaveError(f"{weights.where} has activation = {activation!r}; sleave reads 'topk'.")
    k = k_of(config, weights.where, DEFAULT_K, "sparsify")
    d_sae, d_in = weights.matrix_shape("encoder.weight")
    shapes = {"encoder.weight": (d_sae, d_in), "encoder.bias": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    tensors = weights.checked(shapes)
    for key, given in (("d_in", d_in), ("num_latents", d_sae)):
        if config.get(key, given) not in (given, 0):  # 0: num_latents follows from expansion_factor
            raise SleaveError(f"{weights.where} does not fit its {CONFIG}: {key} is {given}, not {config[key]}.")
    sae = TopKAutoencoder(d_in, d_sae, apply_b_dec_to_input=True, k=k)
    W_enc, b_enc = tensors["encoder.weight"].t(), tensors["encoder.bias"]
    return filled(sae, {"W_enc": W_enc, "b_enc": b_enc, "W_dec": tensors["W_dec"], "b_dec": tensors["b_dec"]})
