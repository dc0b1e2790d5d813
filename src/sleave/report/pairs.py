"""The most entangled pairs of several runs, to be read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sleave.auditing.results import PairFigures
from sleave.report.columns import PAIR, Column, Section, of_pair
from sleave.report.reading import Run
from sleave.report.tables import linked, texts

PAIRS = 120  # on the page by each ranking, shared by the runs
FEWEST = 10  # of each run
RANKED = {"information": "most information", "correlation": "most correlated"}
LEFT_OUT = ("C", "1st fires", "2nd fires", "2nd|1st", "1st|2nd", "Jaccard")


@dataclass(frozen=True)
class Found:
    """A pair of features of one run, and why it is listed."""

    run: int
    name: str
    pair: PairFigures
    lists: tuple[str, ...]


COLUMNS: tuple[Column[Any], ...] = (
    Column("run", "the run whose features they are", lambda f: f.name, None),
    *(column for column in of_pair(PAIR) if column.head not in LEFT_OUT),
    Column("listed as", "what the pair is among the first of", lambda f: ", ".join(f.lists), None),
)


def entangled_pairs(runs: Sequence[Run]) -> Section:
    """The strongest pairs of each run; the more runs, the fewer of each, so that the page stays small."""
    most = max(FEWEST, PAIRS // len(runs))
    found = [pair for n, run in enumerate(runs) for pair in _found(n, run, most)]
    says = (
        f"Of each run the {most} pairs that tell most of each other, the {most} that correlate most and at most {most} "
        "near-duplicates. Open a pair to read the texts that its features fire most on: the first feature colours the "
        "upper half of a token, the second the lower half. `sleave audit RUN` lists more."
    )
    return Section(
        name="pairs",
        title="Entangled pairs",
        says=says,
        columns=COLUMNS,
        findings=sorted(found, key=lambda f: -f.pair.information),
        features=lambda f: (f.pair.i, f.pair.j),
        run=lambda f: f.run,
    )


def _found(n: int, run: Run, most: int) -> Iterator[Found]:
    if run.audit is None:
        return
    ranked = {title: run.audit.rankings.get(name, ())[:most] for name, title in RANKED.items()}
    ranked["near-duplicate"] = tuple(found.pair for found in run.audit.near_duplicates[:most])
    pairs: dict[tuple[int, int], tuple[PairFigures, list[str]]] = {}
    for title, ranking in ranked.items():
        for pair in ranking:
            pairs.setdefault((pair.i, pair.j), (pair, []))[1].append(title)
    yield from (Found(n, run.name, pair, tuple(lists)) for pair, lists in pairs.values())


def texts_of(runs: Sequence[Run], pairs: Section) -> list[Mapping[str, Any]]:
    """For the script: of each run, the texts of the features that are listed."""
    found: list[Mapping[str, Any]] = []
    for n, run in enumerate(runs):
        own = replace(pairs, findings=[f for f in pairs.findings if f.run == n])
        found.append({} if run.audit is None else texts(run.audit, linked(own)))
    return found
