"""`sleave.save`: one autoencoder, in the format of a library of one's choice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.errors import SleaveError, check_one_of
from sleave.interop import dictionary_learning, sae_lens

FORMATS = {"sae_lens": sae_lens.write, "dictionary_learning": dictionary_learning.write}
WEIGHTS = {"sae_lens": sae_lens.WEIGHTS, "dictionary_learning": dictionary_learning.WEIGHTS}


def save(
    sae: SparseAutoencoder,
    path: str | Path,
    metadata: Mapping[str, Any] | None = None,
    *,
    format: str = "sae_lens",
) -> None:
    """Write an autoencoder such that another library opens it, with the same codes and reconstructions.

    Each file is whole or absent, the weights before the settings.

    Args:
        sae: reads raw activations (see `sleave.fold`).
        path: the folder; made if it is not there.
        metadata: goes into the settings as it is; SAELens's keys are model_name, hook_name, context_size and others.
        format: `sae_lens` (cfg.json, sae_weights.safetensors; for `sae_lens.SAE.load_from_disk`) or
            `dictionary_learning` (config.json, ae.pt; for `dictionary_learning.utils.load_dictionary`).

    Raises:
        SleaveError: an autoencoder that the format has no room for, another format, or a folder that cannot be written.
    """
    check_one_of("format", format, FORMATS)
    if sae.batch_norm is not None:
        raise SleaveError("Files have no batch norm: save sleave.fold(sae, shift, scale), which has it folded in.")
    try:
        json.dumps(dict(metadata or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SleaveError(f"`metadata` must hold what JSON can: texts, finite numbers, lists ({error}).") from error
    for other, weights in WEIGHTS.items():
        if other != format and (Path(path) / weights).is_file():
            raise SleaveError(
                f"`{path}` holds an autoencoder in the format `{other}` ({weights}); beside it, nobody could tell "
                "which of the two is meant. Choose another folder."
            )
    FORMATS[format](sae, Path(path), metadata or {})
