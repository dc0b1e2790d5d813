"""All findings about one autoencoder on some rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from sleave.activations.rows import Rows
from sleave.auditing.contexts import TokenTexts, top_contexts
from sleave.auditing.duplicates import clusters_of, strongest
from sleave.auditing.figures import pair_figures
from sleave.auditing.limits import ABSORBED, LIMITS
from sleave.auditing.results import MEMBERS, Audit, Cluster, PairFigures, Summary
from sleave.auditing.rows import read_codes
from sleave.auditing.strong import strong_pairs
from sleave.auditing.suspects import Suspects
from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.errors import SleaveError
from sleave.base.progress import progress
from sleave.dependence.mutual_information import mutual_information
from sleave.dependence.pairs import Pairs, num_pairs
from sleave.dependence.scores import PairScores
from sleave.dependence.selection import top_pairs
from sleave.evaluation.codes import DENSE
from sleave.evaluation.directions import Nearest, num_tiles, tiles
from sleave.evaluation.duplicates import NearDuplicates
from sleave.evaluation.evidence import Evidence
from sleave.evaluation.histogram import histogram
from sleave.evaluation.limits import OFTEN


@torch.no_grad()
def audit_rows(
    sae: SparseAutoencoder,
    rows: Rows | Tensor,
    *,
    pairs: int = 50,
    token_texts: TokenTexts | None = None,
    about: Mapping[str, str] | None = None,
) -> Audit:
    """Find out how entangled an autoencoder is.

    All figures are exact over the rows. Memory grows with what fires and with the pairs that fire together.

    Args:
        sae: reads raw activations, as `sleave.load` gives it.
        rows: raw activations, (rows, d_in) or `Rows.of_store`.
        pairs: how many pairs each list has at most.
        token_texts: gives the texts of token ids; without it, or if it is not known which token each row is, there are
            no contexts.
        about: names and values for the reader: which autoencoder, which text.

    Raises:
        SleaveError: fewer than two rows or features, rows of another width, NaN or infinite values, `pairs` below 1,
            or not enough memory.
    """
    if not isinstance(rows, Rows):
        if not isinstance(rows, Tensor) or rows.ndim != 2:
            raise SleaveError("`rows` must be a torch tensor (rows, d_in) of raw activations, or Rows.of_store(...).")
        rows = Rows.of(rows.float())
    if pairs < 1 or rows.count < 2 or sae.d_sae < 2:
        raise SleaveError(
            f"An audit needs 2 rows, 2 features and 1 pair at least; given were {rows.count} rows, an autoencoder of "
            f"{sae.d_sae} features and pairs = {pairs}."
        )
    codes, fvu, deviation = read_codes(sae, rows)
    with progress("Counting what fires together", 3, "steps") as advance:
        evidence = Evidence(sae, codes, mutual_information(codes), deviation)
        advance(1, "")
        rankings = _rankings(evidence, pairs)
        advance(1, "")
        strong, correlation = strong_pairs(evidence)
        advance(1, "")
    nearest, duplicates, suspects = _walk(evidence)
    clusters = clusters_of(duplicates, codes.d_sae)
    absorptions, num_absorptions = suspects.absorptions(rows, pairs)
    rate = codes.fired / codes.rows
    audit = Audit(
        about=dict(about or {}),
        summary=_summary(evidence, fvu, duplicates, clusters, suspects, num_absorptions),
        rankings=rankings,
        near_duplicates=strongest(duplicates, evidence, pairs),
        clusters=tuple(clusters[:pairs]),
        splits=suspects.strongest_splits(pairs),
        absorptions=absorptions,
        dead=_where(rate == 0),
        dense=_where(rate > DENSE),
        histograms={
            "firing_rate": histogram(rate[rate > 0].log10(), -6, 0),
            "nearest": histogram(nearest, -0.2, 1),
            "information": histogram(evidence.scores.score.clamp_min(1e-30).log10(), -6, 0.5),
            "correlation": histogram(correlation, 0, 1),
        },
        strong=strong,
        contexts={},
        limits=LIMITS,
    )
    if rows.origin is None or token_texts is None:
        return audit
    linked = [(p.i, p.j) for p in audit.pairs()]
    linked += [(cluster.members[0], other) for cluster in audit.clusters for other in cluster.members[1:MEMBERS]]
    return replace(audit, contexts=top_contexts(codes, rows.origin, token_texts, linked))


def _summary(
    evidence: Evidence,
    fvu: float,
    duplicates: NearDuplicates,
    clusters: Sequence[Cluster],
    suspects: Suspects,
    num_absorptions: int,
) -> Summary:
    codes, scores = evidence.codes, evidence.scores
    rate = codes.fired / codes.rows
    return Summary(
        rows=codes.rows,
        d_in=evidence.decoder.shape[1],
        d_sae=codes.d_sae,
        l0=codes.value.numel() / codes.rows,
        fvu=fvu,
        dead=int((rate == 0).sum()),
        dense=int((rate > DENSE).sum()),
        mean_information=scores.mean(),
        p999_information=scores.quantile(0.999),
        near_duplicates=len(duplicates),
        clusters=len(clusters),
        clustered=sum(len(c.members) for c in clusters),
        splits=len(suspects.splits[0]),
        absorptions=num_absorptions,
        absorption_candidates=suspects.num_candidates,
        absorptions_checked=len(suspects.candidates[0]),
    )


def _where(mask: Tensor) -> tuple[int, ...]:
    return tuple(mask.nonzero().flatten().tolist())


def _rankings(evidence: Evidence, count: int) -> dict[str, tuple[PairFigures, ...]]:
    """The strongest pairs three ways; of codes, only pairs that fire together on 10 rows at least."""
    codes, decoder = evidence.codes, evidence.decoder
    share = min(1.0, count / num_pairs(codes.d_sae))
    correlated = top_pairs(codes, share, measure="pearson", min_coactivations=OFTEN).ranked()
    aligned = top_pairs(decoder.t(), share).ranked()
    chosen = {
        "information": _most_informed(evidence.scores, count),
        "correlation": correlated[:2],
        "decoder": aligned[:2],
    }
    return {name: pair_figures(evidence, i, j) for name, (i, j) in chosen.items()}


def _most_informed(scores: PairScores, count: int) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
    often = (scores.together >= OFTEN).nonzero().flatten()
    i, j, _ = Pairs.of(scores.i[often], scores.j[often], scores.score[often]).strongest(count).ranked()
    return i, j


def _walk(evidence: Evidence) -> tuple[Tensor, NearDuplicates, Suspects]:
    """Everything that begins with like decoder directions, in one walk over all pairs."""
    d_sae = evidence.codes.d_sae
    nearest, duplicates, suspects = Nearest(d_sae), NearDuplicates(evidence), Suspects(evidence)
    with progress("Comparing directions", num_tiles(d_sae), "tiles") as advance:
        for row, column, tile in tiles(evidence.decoder):
            nearest.add(row, column, tile)
            i, j = (tile >= ABSORBED).nonzero(as_tuple=True)
            cosine = tile[i, j]
            duplicates.add(i + row, j + column, cosine)
            suspects.add(i + row, j + column, cosine)
            advance(1, "")
    return nearest.cosine, duplicates, suspects
