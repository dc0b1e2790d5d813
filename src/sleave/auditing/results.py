"""What an audit finds: plain values, all of which JSON has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from sleave.base.errors import SleaveError
from sleave.evaluation.histogram import Histogram

MEMBERS = 12  # of a cluster that are named, and whose texts are kept
RANKINGS: Mapping[str, str] = MappingProxyType(
    {
        "information": "mutual information",
        "correlation": "correlation of codes",
        "decoder": "cosine of decoder directions",
    }
)


@dataclass(frozen=True)
class PairFigures:
    """What is known of two features.

    Attributes:
        i, j: the features, i < j.
        information: mutual information of their codes in nats, less what chance alone would give (zero an atom of its
            own, active values in at most 16 bins).
        normalized: mutual information of *whether* each fires, over the smaller of the two entropies: 1 if one of them
            tells all about the other's firing, 0 if it tells nothing. Nothing is subtracted.
        pearson, cosine: Pearson's correlation of their codes, and the uncentred cosine.
        decoder, encoder: cosine of their decoder directions, and of their encoder directions, signs kept.
        standardised: that of their decoder directions with each dimension in units of its deviation over the rows.
        fired_i, fired_j: on how many rows each fires.
        together: on how many rows both do.
        expected: on how many both would, on average, were the two independent.
        rate_i, rate_j: the share of rows on which each fires.
        i_given_j, j_given_i: the share of one's rows on which the other fires too.
        jaccard: rows on which both fire, over those on which either does.
    """

    i: int
    j: int
    information: float
    normalized: float
    pearson: float
    cosine: float
    decoder: float
    standardised: float
    encoder: float
    fired_i: int
    fired_j: int
    together: int
    expected: float
    rate_i: float
    rate_j: float
    i_given_j: float
    j_given_i: float
    jaccard: float


@dataclass(frozen=True)
class NearDuplicate:
    """Two features that say and do the same; see `duplicates`.

    Attributes:
        pair: the two.
        by_codes: their codes show that they do.
        by_encoders: their encoders do.
    """

    pair: PairFigures
    by_codes: bool
    by_encoders: bool


@dataclass(frozen=True)
class Cluster:
    """Features that near-duplicates link, directly or through others.

    Attributes:
        members: the features, ascending.
        pairs: how many near-duplicates there are among them.
        mean_cosine: mean cosine of the decoder directions of those.
    """

    members: tuple[int, ...]
    pairs: int
    mean_cosine: float


@dataclass(frozen=True)
class SplitSuspect:
    """Two features of like direction that fire together less than chance would have it: one, perhaps, split by context.

    Attributes:
        pair: the two.
        deviations: by how many standard deviations `together` is below `expected`; near 0, chance may have done it.
    """

    pair: PairFigures
    deviations: float


@dataclass(frozen=True)
class AbsorptionSuspect:
    """A parent that is silent where a child fires, although its direction is there: absorbed by the child, perhaps.

    Attributes:
        pair: the two.
        parent, child: which is which; the parent fires on more rows.
        deviations: by how many standard deviations `together` is below `expected`.
        where_parent_fires: mean projection of the activations on the parent's decoder direction over the rows where it
            fires, less the mean over all rows; in units of the activations.
        where_child_alone: the same over the rows where the child fires and the parent does not.
        ratio: the latter over the former.
    """

    pair: PairFigures
    parent: int
    child: int
    deviations: float
    where_parent_fires: float
    where_child_alone: float
    ratio: float


@dataclass(frozen=True)
class Context:
    """A stretch of text around one token.

    Attributes:
        document: the number of the document.
        positions: of each token in the sequence that the model read; a gap is of tokens that were not stored.
        tokens: their texts.
        peak: which of them is the one that the feature fires most on.
        codes: for each feature of interest, its code on each token.
    """

    document: int
    positions: tuple[int, ...]
    tokens: tuple[str, ...]
    peak: int
    codes: Mapping[int, tuple[float, ...]]


@dataclass(frozen=True)
class StrongPairs:
    """The pairs that share most, listed so that programs can look any of them up.

    Attributes:
        i, j: the pairs, i < j.
        pearson: |r| of each, to 3 digits.
        information: of each, in nats, to 5 digits.
        least_pearson, least_information: a pair that fires together often and is not listed has at most these.
    """

    i: tuple[int, ...]
    j: tuple[int, ...]
    pearson: tuple[float, ...]
    information: tuple[float, ...]
    least_pearson: float
    least_information: float


@dataclass(frozen=True)
class Summary:
    """The whole dictionary in figures.

    Attributes:
        rows, d_in, d_sae: what was read, by what.
        l0: features that fire on a row, on average.
        fvu: fraction of variance unexplained, sum of squared errors over that of deviations from the mean.
        dead: features that fire on no row.
        dense: features that fire on more than a tenth of the rows.
        mean_information, p999_information: of all pairs, in nats (`PairFigures.information`).
        near_duplicates, clusters: how many there are.
        clustered: how many features are in a cluster.
        splits: how many pairs are suspects of splitting.
        absorptions: how many are of absorption, of the `absorptions_checked` likeliest.
        absorption_candidates: how many pairs could have been, had their directions been where the child fires.
        absorptions_checked: in how many of them that was looked at.
    """

    rows: int
    d_in: int
    d_sae: int
    l0: float
    fvu: float
    dead: int
    dense: int
    mean_information: float
    p999_information: float
    near_duplicates: int
    clusters: int
    clustered: int
    splits: int
    absorptions: int
    absorption_candidates: int
    absorptions_checked: int


@dataclass(frozen=True)
class Audit:
    """All findings. Lists of pairs hold the strongest; `summary` counts all.

    Attributes:
        about: what was audited, on what: names and values for the reader.
        summary: see there.
        rankings: the strongest pairs by each of `RANKINGS`.
        near_duplicates: by decoder cosine, largest first.
        clusters: largest first.
        splits: suspects, by decoder cosine, largest first.
        absorptions: suspects, by `deviations`, largest first.
        dead, dense: the features.
        histograms: of features, `firing_rate` (log10 of the share of rows, dead ones left out) and `nearest` (the
            largest decoder cosine with another); of pairs that fire together, `information` (log10 of nats) and
            `correlation` (|r|).
        strong: the pairs that share most, many more than the rankings have.
        contexts: for each feature of a listed pair or cluster, the strongest token in each of some documents.
        limits: the numbers that decide what is listed where, by name.
    """

    about: Mapping[str, str]
    summary: Summary
    rankings: Mapping[str, tuple[PairFigures, ...]]
    near_duplicates: tuple[NearDuplicate, ...]
    clusters: tuple[Cluster, ...]
    splits: tuple[SplitSuspect, ...]
    absorptions: tuple[AbsorptionSuspect, ...]
    dead: tuple[int, ...]
    dense: tuple[int, ...]
    histograms: Mapping[str, Histogram]
    strong: StrongPairs
    contexts: Mapping[int, tuple[Context, ...]]
    limits: Mapping[str, float]

    def pairs(self) -> list[PairFigures]:
        """Every pair that is listed anywhere, each once."""
        found = [p for ranking in self.rankings.values() for p in ranking]
        for findings in (self.near_duplicates, self.splits, self.absorptions):
            found += [finding.pair for finding in findings]
        return list({(p.i, p.j): p for p in found}.values())

    def to_dict(self) -> dict[str, Any]:
        """As nested JSON values; features are strings where they are keys, as JSON has it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: _plain(value) for name, value in values.items()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Audit:
        """What `to_dict` gave; names that an audit does not have are passed over.

        Raises:
            SleaveError: it is not what `to_dict` of this version gives.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(Audit).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise SleaveError(f"This is not an audit as this version writes it: `{where}`: {first['msg']}.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return value
