"""One pass over held-out rows: their codes, and how they come back, group by group of documents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from sleave.activations.scaling import Scaling
from sleave.autoencoder.model import SparseAutoencoder, inference
from sleave.base.errors import SleaveError
from sleave.codes.codes import Codes, as_codes
from sleave.evaluation.correlation import turned
from sleave.evaluation.reconstruction import Reconstruction

BLOCK = 256  # rows that count as one document where documents are not known


@dataclass(frozen=True, eq=False)
class ReadRows:
    """What is kept of the rows.

    Attributes:
        codes: of all of them.
        document: the document of each.
        raw, scaled: reconstruction of each group's rows, in the model's units and in those of training.
        fingerprint: of the rows themselves: equal for two runs that were measured on the same rows in the same order.
    """

    codes: Codes
    document: Int64[Tensor, " rows"]
    raw: tuple[Reconstruction, ...]
    scaled: tuple[Reconstruction, ...]
    fingerprint: str

    @property
    def group(self) -> Int64[Tensor, " rows"]:
        """The group of each row."""
        return self.document % len(self.raw)

    @cached_property
    def turned(self) -> Codes:
        """The codes with each feature's column turned round by some rows of its own.

        Turned once: a draw of its own for each group left out would widen intervals by what the draws differ.
        """
        return turned(self.codes)


def read_rows(
    sae: SparseAutoencoder,
    batches: Iterable[Tensor],
    scaling: Scaling,
    max_rows: int | None,
    documents: Int[Tensor, " rows"] | None,
    groups: int,
) -> ReadRows:
    """Encode and decode raw activations; see `evaluate_rows`.

    Raises:
        SleaveError: there are no rows, they have another width, or they hold NaN or infinite values; or `documents`
            are fewer.
    """
    raw, scaled = (tuple(Reconstruction(sae.d_in) for _ in range(groups)) for _ in range(2))
    codes: list[Codes] = []
    labels: list[Tensor] = []
    digest, rows = hashlib.sha256(), 0
    for x in _up_to(batches, max_rows):
        if not bool(torch.isfinite(x).all()):
            raise SleaveError("The held-out activations hold NaN or infinite values; harvest them again.")
        if len(x) == 0:
            continue
        if documents is not None and len(documents) < rows + len(x):
            raise SleaveError(
                f"`documents` has {len(documents)} numbers, and there are more rows; give one for each row."
            )
        number = torch.arange(rows, rows + len(x))
        document = number // BLOCK if documents is None else documents[number].long()
        with inference(sae):
            acts = as_codes(sae.codes(x))
            x_hat = sae.decode(acts)
        for group in (document % groups).unique().tolist():
            inside = document % groups == group
            raw[group].update(x[inside], x_hat[inside])
            scaled[group].update(scaling.apply(x[inside]), scaling.apply(x_hat[inside]))
        codes.append(acts)
        labels.append(document)
        digest.update(x.contiguous().numpy().tobytes())
        rows += len(x)
    if rows == 0:
        raise SleaveError("There are no held-out rows. Harvest with harvest.heldout_fraction above 0, or more text.")
    return ReadRows(Codes.cat(codes), torch.cat(labels), raw, scaled, digest.hexdigest()[:16])


def _up_to(batches: Iterable[Tensor], max_rows: int | None) -> Iterator[Tensor]:
    left = max_rows
    for batch in batches:
        x = batch[:left]
        yield x
        if left is not None:
            left -= len(x)
            if left <= 0:  # before another batch is asked for, which may take the language model
                return
