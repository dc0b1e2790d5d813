"""Rows of activations out of documents: what harvesting and the live mode share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sleave.activations.manifest import stored_dtype
from sleave.base.errors import SleaveError
from sleave.base.ranks import ALONE, Ranks
from sleave.language.contexts import Context, contexts, is_heldout
from sleave.language.corpora import Document, matching
from sleave.language.model import HookedModel
from sleave.language.settings import CorpusSettings, FileCorpus, HarvestSettings, ModelSettings

FILES = "files"  # of the specification: what can change without a setting changing


@dataclass(frozen=True)
class Item:
    """A document with its number, its side of the split, and the contexts it was cut into."""

    number: int
    document: Document
    heldout: bool
    contexts: tuple[Context, ...]

    @property
    def rows(self) -> int:
        return sum(c.num_kept for c in self.contexts)


def items(
    documents: Iterable[Document], model: HookedModel, settings: HarvestSettings, start: int = 0
) -> Iterator[Item]:
    """Documents from number `start` on, cut into contexts. One that gives no context is still an item."""
    size = 512  # documents that the tokenizer gets at once
    numbered: list[tuple[int, Document]] = []

    def cut() -> Iterator[Item]:
        by_document: dict[int, list[Context]] = {number: [] for number, _ in numbered}
        for context in contexts(numbered, model.tokenizer, settings):
            by_document[context.document].append(context)
        for number, document in numbered:
            heldout = is_heldout(document, settings.heldout_fraction, settings.seed)
            yield Item(number, document, heldout, tuple(by_document[number]))

    for number, document in enumerate(documents):
        if number < start:
            continue
        numbered.append((number, document))
        if len(numbered) == size:
            yield from cut()
            numbered = []
    yield from cut()


def read(
    model: HookedModel,
    sequences: Sequence[Context],
    batch_tokens: int,
    advance: Callable[[int], None] = lambda tokens: None,
    ranks: Ranks = ALONE,
) -> dict[int, Tensor]:
    """Run contexts through the model: for each layer (rows, d_in), in the order of the contexts.

    Args:
        model: the language model.
        sequences: the contexts.
        batch_tokens: tokens at once, padding included.
        advance: told the number of rows after each batch of this rank.
        ranks: each runs its share of the batches, and gets what all have run.

    Raises:
        SleaveError: activations are not finite.
    """
    counts = [c.num_kept for c in sequences]
    offsets = [0, *accumulate(counts)]
    rows: dict[int, Tensor] = {}
    for batch in model.batches(sequences, batch_tokens)[ranks.rank :: ranks.size]:
        for layer, x in model.activations([sequences[i] for i in batch]).items():
            if layer not in rows:
                rows[layer] = torch.zeros(offsets[-1], model.d_in, dtype=x.dtype)
            for i, part in zip(batch, x.split([counts[i] for i in batch]), strict=True):
                rows[layer][offsets[i] : offsets[i + 1]] = part
        advance(sum(counts[i] for i in batch))
    if ranks.size > 1 and sequences:
        for layer in model.layers:  # a rank may have had no batch
            ranks.fill_(rows.setdefault(layer, torch.zeros(offsets[-1], model.d_in, dtype=model.dtype)))
    for layer, x in rows.items():
        if bad := int((~x.isfinite()).any(dim=1).sum()):
            raise SleaveError(
                f"Layer {layer} of {model.name}: {bad} of {len(x)} rows have NaN or infinite activations. Run the "
                "model in float32 or bfloat16 (`model.dtype`), and check that its weights are intact."
            )
    return rows or {layer: torch.empty(0, model.d_in) for layer in model.layers}


def norm_limits(rows: Mapping[int, Tensor], settings: HarvestSettings) -> dict[int, float] | None:
    """For each layer, the norm above which a row is massive: max_norm_ratio times the median of these rows."""
    if settings.max_norm_ratio is None or not len(next(iter(rows.values()))):
        return None
    return {layer: settings.max_norm_ratio * float(x.float().norm(dim=1).median()) for layer, x in rows.items()}


def not_massive(rows: Mapping[int, Tensor], limits: Mapping[int, float] | None) -> Tensor:
    """(rows,) whether each row is within the limits at every layer."""
    keep = torch.ones(len(next(iter(rows.values()))), dtype=torch.bool)
    for layer, limit in (limits or {}).items():
        keep &= rows[layer].float().norm(dim=1) <= limit
    return keep


def metadata(model: HookedModel, corpora: Sequence[CorpusSettings], settings: HarvestSettings) -> dict[str, Any]:
    """The model and text in the words of SAELens's cfg.json."""
    names = [", ".join(c.paths) if isinstance(c, FileCorpus) else c.name for c in corpora]
    return {
        "model_name": model.name,
        "model_revision": model.revision,
        "dataset_path": ", ".join(names),
        "context_size": settings.context_length,
        "prepend_bos": model.bos_id is not None,
    }


def specification(model: ModelSettings, corpora: Sequence[CorpusSettings], settings: HarvestSettings) -> dict[str, Any]:
    """What decides which rows there are: the same specification gives the same rows.

    Local files are told apart by size and time of change, so that edited text is not taken for what was harvested.
    """
    files = [path for c in corpora if isinstance(c, FileCorpus) for pattern in c.paths for path in matching(pattern)]
    files += sorted(Path(model.name).expanduser().glob("*.safetensors"))
    seen = {str(path): f"{path.stat().st_size} bytes, {path.stat().st_mtime_ns}" for path in files}
    how = settings.model_dump(mode="json", exclude={"store", "batch_tokens"})
    which = model.model_dump(mode="json", exclude={"device", "compile", "layers"})
    which["dtype"] = stored_dtype(model.dtype, model.device, settings.store)
    texts = [c.model_dump(mode="json") for c in corpora]
    return {"model": which, "corpus": texts, "harvest": how, FILES: seen}
