"""What the tables of an audit show of each finding, on screen and on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sleave.auditing.results import (
    MEMBERS,
    AbsorptionSuspect,
    Audit,
    Cluster,
    NearDuplicate,
    PairFigures,
    SplitSuspect,
)

T = TypeVar("T")


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column.

    Attributes:
        head: its name, short.
        says: what is in it.
        value: of a finding.
        style: how a number is written, as `format` takes it; None for text.
        on_screen: whether it is shown where there is little room, too.
    """

    head: str
    says: str
    value: Callable[[T], float | str]
    style: str | None
    on_screen: bool = True

    def text(self, finding: T) -> str:
        """What is written of a finding."""
        value = self.value(finding)
        return str(value) if self.style is None else format(value, self.style)


@dataclass(frozen=True)
class Section:
    """A list of findings with a heading.

    Attributes:
        name: an identifier.
        title: the heading.
        says: what the list is.
        columns: what is shown of each finding.
        findings: the list.
        total: how many there are, those that are not listed included; None if the list is simply the first so many.
        features: the features of a finding, the first and the second as they are to be shown, and more of a cluster;
            None if it has none.
        run: which of several runs a finding is of, from 0.
    """

    name: str
    title: str
    says: str
    columns: Sequence[Column[Any]]
    findings: Sequence[Any]
    total: int | None = None
    features: Callable[[Any], tuple[int, ...]] | None = None
    run: Callable[[Any], int] = lambda _: 0


PAIR: tuple[Column[PairFigures], ...] = (
    Column(
        "I", "mutual information of the codes, in nats, less what chance alone gives", lambda p: p.information, ".4f"
    ),
    Column("I/H", "information on whether each fires, over the smaller entropy", lambda p: p.normalized, ".3f", False),
    Column("r", "Pearson's correlation of the codes", lambda p: p.pearson, ".3f"),
    Column("C", "uncentred cosine of the codes", lambda p: p.cosine, ".3f", False),
    Column("decoder", "cosine of the decoder directions", lambda p: p.decoder, ".3f"),
    Column("in sd", "the same, each dimension in units of its deviation", lambda p: p.standardised, ".3f"),
    Column("encoder", "cosine of the encoder directions", lambda p: p.encoder, ".3f"),
    Column("together", "rows on which both fire", lambda p: p.together, ",d"),
    Column("1st fires", "share of rows on which the first fires", lambda p: p.rate_i, ".3%", False),
    Column("2nd fires", "share of rows on which the second fires", lambda p: p.rate_j, ".3%", False),
    Column("2nd|1st", "share of the first's rows on which the second fires", lambda p: p.j_given_i, ".1%", False),
    Column("1st|2nd", "share of the second's rows on which the first fires", lambda p: p.i_given_j, ".1%", False),
    Column("Jaccard", "rows on which both fire, over those on which either does", lambda p: p.jaccard, ".3f", False),
)


def of_pair(columns: Sequence[Column[PairFigures]]) -> tuple[Column[Any], ...]:
    """The same columns for a finding that has a pair."""

    def through(column: Column[PairFigures]) -> Column[Any]:
        return Column(column.head, column.says, lambda f: column.value(f.pair), column.style, column.on_screen)

    return tuple(through(column) for column in columns)


def _evidence(found: NearDuplicate) -> str:
    return " and ".join(["codes"] * found.by_codes + ["encoders"] * found.by_encoders)


DUPLICATE: tuple[Column[NearDuplicate], ...] = (
    *of_pair(PAIR),
    Column("shown by", "what shows that they say the same", _evidence, None, False),
)


def named(features: Sequence[int]) -> str:
    """The first of some features."""
    more = len(features) - MEMBERS
    return ", ".join(map(str, features[:MEMBERS])) + (f" and {more} more" if more > 0 else "")


CLUSTER: tuple[Column[Cluster], ...] = (
    Column("size", "how many features", lambda c: len(c.members), ",d"),
    Column("pairs", "near-duplicates among them", lambda c: c.pairs, ",d"),
    Column("decoder", "mean cosine of the decoder directions of those", lambda c: c.mean_cosine, ".3f"),
)

TOGETHER: tuple[Column[Any], ...] = (
    Column("decoder", "cosine of the decoder directions", lambda s: s.pair.decoder, ".3f"),
    Column("in sd", "the same, each dimension in units of its deviation", lambda s: s.pair.standardised, ".3f"),
    Column("encoder", "cosine of the encoder directions", lambda s: s.pair.encoder, ".3f", False),
    Column("together", "rows on which both fire", lambda s: s.pair.together, ",d"),
    Column("by chance", "rows on which both would, were they independent", lambda s: s.pair.expected, ",.1f"),
    Column(
        "deviations", "standard deviations below chance; near 0, chance may have done it", lambda s: s.deviations, ".1f"
    ),
)
SPLIT: tuple[Column[SplitSuspect], ...] = (
    *TOGETHER,
    *(c for c in of_pair(PAIR) if c.head in ("1st fires", "2nd fires")),
)
ABSORPTION: tuple[Column[AbsorptionSuspect], ...] = (
    *TOGETHER,
    Column(
        "parent on",
        "mean projection on the parent's direction where it fires",
        lambda s: s.where_parent_fires,
        ".4g",
        False,
    ),
    Column(
        "child alone",
        "the same where the child fires and the parent does not",
        lambda s: s.where_child_alone,
        ".4g",
        False,
    ),
    Column("ratio", "the latter over the former", lambda s: s.ratio, ".2f"),
)


def sections(audit: Audit) -> list[Section]:
    """Everything that is listed, in the order of reading."""

    def two(pair: PairFigures) -> tuple[int, int]:
        return pair.i, pair.j

    count, limits = audit.summary, audit.limits
    often = f"that fire together on {limits['min_rows']} rows or more"
    ranked = {
        "information": ("Most mutual information", f"Pairs {often} whose codes tell most of each other."),
        "correlation": ("Most correlated", f"Pairs {often} whose codes correlate most, by |r|."),
        "decoder": ("Most aligned decoder directions", "Pairs that write most alike (or most opposed), by |cosine|."),
    }
    return [
        Section(
            "duplicates",
            "Near-duplicates",
            f"Decoder cosine of {limits['near_duplicate_decoder_cosine']} or more, and codes that correlate (r of "
            f"{limits['near_duplicate_pearson']} or more) or encoders as much alike: they say and do the same.",
            DUPLICATE,
            audit.near_duplicates,
            count.near_duplicates,
            lambda f: two(f.pair),
        ),
        Section(
            "clusters",
            "Clusters of near-duplicates",
            "Features that near-duplicates link, directly or through others.",
            CLUSTER,
            audit.clusters,
            count.clusters,
            lambda c: c.members,
        ),
        *(Section(name, *ranked[name], PAIR, audit.rankings[name], features=two) for name in ranked),
        Section(
            "splits",
            "Suspects of splitting",
            f"Decoder cosine of {limits['split_decoder_cosine']} or more, yet seldom or never together, "
            "3 standard deviations below chance: one feature, perhaps, split by context. A lead, not a proof.",
            SPLIT,
            audit.splits,
            count.splits,
            lambda f: two(f.pair),
        ),
        Section(
            "absorptions",
            "Suspects of absorption",
            "The first, the parent, is silent where the second, the child, fires, although its direction is there: "
            "absorbed by the child, perhaps. A lead, not a proof.",
            ABSORPTION,
            audit.absorptions,
            count.absorptions,
            lambda f: (f.parent, f.child),
        ),
    ]


def cards(audit: Audit) -> list[tuple[str, str, str]]:
    """The summary: name, figure, and what it says."""
    s = audit.summary
    checked = f"of {s.absorption_candidates:,} candidates"
    if s.absorptions_checked < s.absorption_candidates:
        checked = f"of the likeliest {s.absorptions_checked:,} of {s.absorption_candidates:,} candidates"
    return [
        ("rows", f"{s.rows:,}", "tokens audited"),
        ("features", f"{s.d_sae:,}", f"on activations of width {s.d_in:,}"),
        ("L0", f"{s.l0:.1f}", "features that fire on a row"),
        ("FVU, raw", f"{s.fvu:.4f}", "fraction of variance unexplained"),
        ("dead", f"{s.dead:,}", "features that fire on no row"),
        ("dense", f"{s.dense:,}", "features on more than 10% of rows"),
        ("mean I", f"{s.mean_information:.6f}", "nats between two features"),
        ("99.9th percentile of I", f"{s.p999_information:.5f}", "nats"),
        ("near-duplicates", f"{s.near_duplicates:,}", f"pairs; {s.clustered:,} features in {s.clusters:,} clusters"),
        ("suspects of splitting", f"{s.splits:,}", "pairs"),
        ("suspects of absorption", f"{s.absorptions:,}", checked),
    ]
