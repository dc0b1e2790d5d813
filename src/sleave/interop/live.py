"""`sleave.from_live`: an autoencoder that another library holds in memory."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from sleave.autoencoder.batch_topk import BatchTopKAutoencoder
from sleave.autoencoder.folding import fold
from sleave.autoencoder.jumprelu import JumpReLUAutoencoder
from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.errors import SleaveError
from sleave.interop import dictionary_learning, sae_lens, sparsify
from sleave.interop.weights import Weights, with_threshold


def from_live(obj: Any, *, sample: Tensor | None = None) -> SparseAutoencoder:
    """A copy of an autoencoder in memory, with the codes and reconstructions that it gives now.

    Taken are SAELens's `SAE` and `TrainingSAE`, dictionary_learning's dictionaries, sparsify's `SparseCoder` and
    sleave's own; no library is imported for it. As from files, BatchTopK comes as JumpReLU with its threshold.

    Args:
        obj: the autoencoder.
        sample: raw activations (rows, d_in), where something is left open; see `sleave.load`.

    Raises:
        SleaveError: something else, an autoencoder that sleave cannot express, or something open and no sample.
    """
    if isinstance(obj, BatchTopKAutoencoder):
        return _batch_topk(obj, sample)
    if isinstance(obj, SparseAutoencoder):
        return copy.deepcopy(obj).requires_grad_(False).eval()
    ancestors = {(cls.__module__.split(".")[0], cls.__name__) for cls in type(obj).__mro__}
    where = f"This {type(obj).__name__}"
    if ("sae_lens", "SAE") in ancestors:
        return sae_lens.autoencoder(obj.cfg.to_dict(), Weights(obj.state_dict(), where), sample)
    if ("sparsify", "SparseCoder") in ancestors:
        return sparsify.autoencoder(asdict(obj.cfg) | {"d_in": obj.d_in}, Weights(obj.state_dict(), where))
    for kind in dictionary_learning.CLASSES:
        if ("dictionary_learning", kind) in ancestors:
            return _dictionary(kind, obj, Weights(obj.state_dict(), where), sample)
    raise SleaveError(
        f"`obj` is a {type(obj).__module__}.{type(obj).__qualname__}. Give an autoencoder of SAELens (SAE, "
        f"TrainingSAE), dictionary_learning ({', '.join(dictionary_learning.CLASSES)}), sparsify (SparseCoder) or "
        "sleave; for a path, call sleave.load."
    )


@torch.no_grad()
def _batch_topk(obj: BatchTopKAutoencoder, sample: Tensor | None) -> SparseAutoencoder:
    known = float(obj.threshold) if obj.threshold >= 0 else None
    copied = copy.deepcopy(obj)
    copied.threshold.fill_(0.0 if known is None else known)
    folded = fold(copied, torch.zeros(obj.d_in), torch.ones(obj.d_in))
    if known is None and isinstance(folded, JumpReLUAutoencoder):
        return with_threshold(folded, None, obj.k, sample, f"This {type(obj).__name__}")
    return folded


@torch.no_grad()
def _dictionary(kind: str, obj: Any, weights: Weights, sample: Tensor | None) -> SparseAutoencoder:
    subtracts = getattr(obj, "apply_b_dec_to_input", False)
    sae = dictionary_learning.autoencoder({"dict_class": kind, "apply_b_dec_to_input": subtracts}, weights, sample)
    if kind == "MatryoshkaBatchTopKSAE":  # some of its groups may be switched off
        used = int(obj.group_indices[obj.active_groups])
        sae.W_enc[:, used:] = 0
        sae.b_enc[used:] = 0
    return sae
