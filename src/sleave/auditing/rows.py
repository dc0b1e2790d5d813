"""The rows that are audited, as codes."""

from __future__ import annotations

import torch
from jaxtyping import Float64
from torch import Tensor

from sleave.activations.rows import Rows
from sleave.activations.scaling import Moments
from sleave.autoencoder.model import SparseAutoencoder, inference
from sleave.base.errors import SleaveError
from sleave.base.progress import progress
from sleave.codes.codes import Codes, as_codes
from sleave.evaluation.reconstruction import Reconstruction

NUMBERS = 1 << 26  # of codes that are held densely at a time


def block_rows(d_sae: int) -> int:
    """How many rows to encode at once."""
    return max(64, min(4096, NUMBERS // d_sae))


def read_codes(sae: SparseAutoencoder, rows: Rows) -> tuple[Codes, float, Float64[Tensor, " d_in"]]:
    """What fires on every row, the fraction of variance unexplained, and the deviation of each dimension.

    Raises:
        SleaveError: the rows have another width, are not finite, or do not differ.
    """
    if rows.d_in != sae.d_in:
        raise SleaveError(
            f"The activations have width {rows.d_in}, but the autoencoder reads width {sae.d_in}. "
            "Give the model and layer that it was trained on."
        )
    parts: list[Codes] = []
    reconstruction, moments = Reconstruction(sae.d_in), Moments.empty(sae.d_in)
    with inference(sae), progress("Encoding", rows.count, "rows") as advance:
        for x in rows.blocks(block_rows(sae.d_sae)):
            if not bool(torch.isfinite(x).all()):
                raise SleaveError("The activations hold NaN or infinite values; harvest them again.")
            codes = as_codes(sae.codes(x))
            reconstruction.update(x, sae.decode(codes))
            moments.update(x)
            parts.append(codes)
            advance(len(x), "")
    return Codes.cat(parts), reconstruction.compute().fvu, moments.variance.sqrt()
