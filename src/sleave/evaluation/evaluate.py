"""All metric families over one pass of held-out rows, and what each figure is without each group of documents."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

from sleave.activations.scaling import Scaling
from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.errors import NotEnoughMemory
from sleave.base.progress import progress, say
from sleave.dependence.mutual_information import mutual_information
from sleave.evaluation.codes import CodesResult, CodeStatistics
from sleave.evaluation.correlation import CorrelationResult, correlations
from sleave.evaluation.decoder import DecoderResult, decoder_figures
from sleave.evaluation.evidence import Evidence
from sleave.evaluation.information import Information, InformationResult
from sleave.evaluation.reconstruction import Reconstruction, ReconstructionResult
from sleave.evaluation.rows import ReadRows, read_rows
from sleave.evaluation.top_pairs import TopPairs, TopPairsResult

R = TypeVar("R")
GROUPS = 10


@dataclass(frozen=True)
class Evaluation:
    """What an autoencoder does on held-out rows.

    Attributes:
        rows: how many there were.
        fingerprint: of the rows; runs that share it were measured on the same rows.
        scaled: reconstruction in the units it was trained in.
        raw: reconstruction of the model's own activations, comparable with other tools'.
        codes: sparsity (L1 in the units it was trained in) and utilisation.
        correlation: of the codes, which no scaling changes; None if there is not the memory for it (which is said).
        information: mutual information between codes; None for that reason too, or for fewer than 2 rows or features.
        top_pairs: of the most correlated pairs; None for the same reasons.
        decoder: of the directions that features write; None for the same reasons.
        groups: by figure ("scaled.fvu"), what it is without each group of documents, for `jackknife.interval`; empty
            where there are fewer than two groups. Peaks and histograms are not there.
    """

    rows: int
    fingerprint: str
    scaled: ReconstructionResult
    raw: ReconstructionResult
    codes: CodesResult
    correlation: CorrelationResult | None
    information: InformationResult | None
    top_pairs: TopPairsResult | None
    decoder: DecoderResult | None
    groups: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As nested JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class _OfRows:
    """The figures that follow from some of the rows; see `Evaluation`."""

    scaled: ReconstructionResult
    raw: ReconstructionResult
    codes: CodesResult
    correlation: CorrelationResult | None
    information: InformationResult | None
    top_pairs: TopPairsResult | None


@torch.no_grad()
def evaluate_rows(
    sae: SparseAutoencoder,
    batches: Iterable[Tensor],
    scaling: Scaling | None = None,
    max_rows: int | None = None,
    *,
    documents: Int[Tensor, " rows"] | None = None,
    groups: int = GROUPS,
) -> Evaluation:
    """Evaluate an autoencoder on raw activations.

    Args:
        sae: reads raw activations, as `sleave.load` gives it.
        batches: (batch, d_in) raw held-out activations, float32.
        scaling: the units in which the scaled figures are given; those of the activations by default.
        max_rows: stop after so many rows.
        documents: the number of each row's document; without it, 256 rows that follow each other count as one.
        groups: into how many groups documents are put, for intervals; 1 for none.

    Raises:
        SleaveError: there are no rows, they have another width, or they hold NaN or infinite values; or `documents`
            are fewer.
    """
    scaling = scaling or Scaling.identity(sae.d_in)
    read = read_rows(sae, batches, scaling, max_rows, documents, groups)
    norm = (sae.W_dec * scaling.scale).norm(dim=1)
    correlated = _unless_too_large("Correlation", lambda: correlations(read.codes, read.turned, read.group), True)
    whole = _figures(read, norm, correlated[0] if correlated else None)
    decoder = _decoder(sae, read) if whole.information else None
    parts = {f.name: getattr(whole, f.name) for f in fields(whole)}
    without = _without_each_group(read, norm, correlated[1:] if correlated else None)
    return Evaluation(read.codes.rows, read.fingerprint, **parts, decoder=decoder, groups=without)


def _figures(read: ReadRows, norm: Tensor, correlated: CorrelationResult | None, without: int | None = None) -> _OfRows:
    """Of all rows, or of those that are not in one group; given their correlation."""
    codes, document = read.codes, read.document
    if without is not None:
        kept = read.group != without
        codes, document = codes.at_rows(kept), document[kept]
    statistics, information, top = CodeStatistics(norm), Information(), TopPairs()
    statistics.update(codes)
    information.update(codes)
    top.update(codes, document // len(read.raw) % 2 == 0)
    scaled, raw = (
        Reconstruction.of_all([part for group, part in enumerate(parts) if group != without]).compute()
        for parts in (read.scaled, read.raw)
    )
    enough, tell = codes.rows >= 2, without is None
    return _OfRows(
        scaled,
        raw,
        statistics.compute(),
        correlated,
        _unless_too_large("Mutual information", information.compute, tell) if enough else None,
        _unless_too_large("The most correlated pairs", top.compute, tell) if enough else None,
    )


def _unless_too_large(name: str, compute: Callable[[], R], tell: bool) -> R | None:
    try:
        return compute()
    except NotEnoughMemory as error:
        if tell:
            say(f"{name}: left out. {error} (evaluation.max_rows)")
        return None


def _decoder(sae: SparseAutoencoder, read: ReadRows) -> DecoderResult:
    codes, moments = read.codes, Reconstruction.of_all(read.raw).moments
    return decoder_figures(Evidence(sae, codes, mutual_information(codes, "activity"), moments.variance.sqrt()))


def _without_each_group(
    read: ReadRows, norm: Tensor, correlated: Sequence[CorrelationResult] | None
) -> dict[str, tuple[float, ...]]:
    """By figure, what it is without each group that has rows; nothing if that leaves too little."""
    sizes = torch.bincount(read.group)
    groups = sizes.nonzero().flatten().tolist()
    if len(groups) < 2 or read.codes.rows - int(sizes.max()) < 2:
        return {}
    figures = []
    with progress("The same without each group of documents", len(groups), "groups") as advance:
        for n, group in enumerate(groups):
            figures.append(_numbers(_figures(read, norm, correlated[n] if correlated else None, group)))
            advance(1, "")
    shared = [path for path in figures[0] if all(path in others for others in figures)]
    return {path: tuple(each[path] for each in figures) for path in shared}


def _numbers(figures: _OfRows) -> dict[str, float]:
    """The figures that get an interval, by their path: not what a single pair decides, and no histograms."""
    return {
        f"{part.name}.{figure.name}": float(value)
        for part in fields(figures)
        if is_dataclass(result := getattr(figures, part.name))
        for figure in fields(result)
        if isinstance(value := getattr(result, figure.name), int | float) and not figure.name.startswith("peak")
    }
