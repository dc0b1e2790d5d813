"""Runs side by side as one HTML page: what each gained, what it cost, and what is still entangled in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from sleave.auditing.results import PairFigures
from sleave.evaluation.table import LEGEND, screen_table, warnings
from sleave.report.columns import PAIR, Column, Section, of_pair
from sleave.report.figures import curves, distributions, frontiers, utilisation
from sleave.report.heat import HeatMap, Strong, heat_figure, on_one_scale
from sleave.report.html import document, links, none, section
from sleave.report.plot import key, number
from sleave.report.reading import Run
from sleave.report.tables import filter_field, head, linked, listed, texts, wide
from sleave.report.unlearning import unlearning

PAIRS = 240  # on the page by each ranking, shared by the runs
LISTS = {"information": "most information", "correlation": "most correlated"}
COLUMNS_OF_TABLE = ("constraint", "autoencoder.kind", "autoencoder.d_sae", "seed", "training.steps")


@dataclass(frozen=True)
class Found:
    """A pair of features of one run, and why it is listed."""

    run: int
    name: str
    pair: PairFigures
    lists: tuple[str, ...]


FOUND: tuple[Column[Any], ...] = (
    Column("run", "the run whose features they are", lambda f: f.name, None),
    *(c for c in of_pair(PAIR) if c.head not in ("C", "1st fires", "2nd fires", "2nd|1st", "1st|2nd", "Jaccard")),
    Column("listed as", "what the pair is among the first of", lambda f: ", ".join(f.lists), None),
)


def overview(runs: Sequence[Run]) -> str:
    """The page. Same files, same page, to the byte."""
    pairs = _pairs_of(runs)
    maps = list(_maps(runs))
    missing = none("Not measured: sleave evaluate RUN --suite audit")
    parts = {
        "figures": ("Figures", _legend_of_table(runs), _figures(runs)),
        "training": ("Training", "Each point is the mean of a few steps.", curves(runs) or none("No metrics.")),
        "frontier": (
            "Frontier",
            "One point a run, on held-out rows; a line goes through runs that differ in sparsity alone. Further down "
            "is less entangled; compare at like L0, or at like FVU.",
            frontiers(runs) or none("Not measured: sleave evaluate RUN"),
        ),
        "maps": (
            "What features share",
            "The most entangled features of each run, like ones beside each other; and, where a run began from the "
            "same weights as one without constraint, what the features of those numbers share after it.",
            "".join(figure for figure, _ in maps) or missing,
        ),
        "scores": (
            "Scores of pairs",
            "All pairs that fire together; counts are logarithmic.",
            distributions(runs) or missing,
        ),
        "use": (
            "Use of features",
            "How many features fire how often. Dead ones fire on no row and are not in it.",
            utilisation(runs) or missing,
        ),
        "unlearning": (
            "Unlearning",
            "How much of a topic is forgotten, against what it costs on text to be retained; controls at the limit.",
            unlearning(runs),
        ),
    }
    legend = _legend(runs)
    boxed = ("training", "frontier", "maps", "scores", "use")
    body = "\n".join(
        section(
            name,
            title,
            says,
            f'{legend * (name != "figures")}<div class="figures">{content}</div>' if name in boxed else content,
        )
        for name, (title, says, content) in parts.items()
    )
    listed_pairs = (
        listed(pairs, with_texts=True) if pairs.findings else section(pairs.name, pairs.title, pairs.says, missing)
    )
    titles = {"runs": "Runs", **{name: part[0] for name, part in parts.items()}, pairs.name: pairs.title}
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    header = f"<h1>Report of {escape(title)}</h1>{links(titles)}"
    data = {"texts": _texts(runs, pairs), "maps": [d for _, d in maps]}
    return document(f"Report of {title}", header, f"{_runs(runs)}\n{body}\n{listed_pairs}", data)


def _runs(runs: Sequence[Run]) -> str:
    heads = "".join(
        head(name, says)
        for name, says in (
            ("constraint", "what pushes features apart, and how hard"),
            ("autoencoder", "its architecture"),
            ("features", "d_sae"),
            ("seed", "of all that is random"),
            ("steps", "updates"),
        )
    )
    rows = "".join(_run(n, run) for n, run in enumerate(runs))
    table = (
        '<table id="runs-rows"><caption class="unseen">Runs</caption><thead><tr><th scope="col">run</th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )
    remarks = "".join(f"<li><b>{escape(run.name)}</b>: {escape(remark)}</li>" for run in runs for remark in run.remarks)
    notes = f'<ul class="remarks">{remarks}</ul>' if remarks else ""
    says = "A run that is not ticked is hidden everywhere below."
    return section("runs", "Runs", says, wide("Runs", table) + notes)


def _run(n: int, run: Run) -> str:
    kind, weight = run.setting("constraint.kind"), run.setting("constraint.weight")
    constraint = f"{kind}, {weight}" if weight is not None else str(kind)
    cells = [constraint, *(run.setting(f"{path}") for path in COLUMNS_OF_TABLE[1:])]
    box = (
        f'<label><input type="checkbox" class="show" data-run="{n}" checked autocomplete="off"> {key(n)} '
        f"<span>{escape(run.name)}</span></label>"
    )
    return f'<tr><th scope="row">{box}</th>{"".join(map(_setting, cells))}</tr>'


def _setting(value: Any) -> str:
    if isinstance(value, int | float):
        return f'<td data-value="{value!r}">{number(value)}</td>'
    return f"<td>{escape(str('' if value is None else value))}</td>"


def _legend(runs: Sequence[Run]) -> str:
    items = "".join(f'<li data-of="{n}">{key(n)} {escape(run.name)}</li>' for n, run in enumerate(runs))
    return f'<ul class="legend" aria-label="Runs">{items}</ul>'


def _legend_of_table(runs: Sequence[Run]) -> str:
    return " ".join([*warnings({run.name: run.results for run in runs}), LEGEND])


def _figures(runs: Sequence[Run]) -> str:
    """The table that `sleave evaluate` prints."""
    table = screen_table({run.path: run.results for run in runs})
    names = [run.name for run in runs]
    heads = "".join(f'<th scope="col" data-of="{n}">{key(n)} {escape(name)}</th>' for n, name in enumerate(names))
    columns = [list(column.cells) for column in table.columns]
    rows = "".join(_figure(row) for row in zip(*columns, strict=True))
    return filter_field("figures", len(columns[0]), "correlation, FVU, ...") + wide(
        "Figures",
        f'<table id="figures-rows"><caption class="unseen">Figures of each run</caption><thead><tr>'
        f'<th scope="col">figure</th>{heads}</tr></thead><tbody>{rows}</tbody></table>',
    )


def _figure(row: Sequence[Any]) -> str:
    name, *cells = (escape(str(cell)) for cell in row)
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td data-of={n}>{c}</td>" for n, c in enumerate(cells))}</tr>'


def _maps(runs: Sequence[Run]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each run's own most entangled features, and those of the run without constraint that it shares a start with."""
    strong = {n: Strong(run.audit.strong) for n, run in enumerate(runs) if run.audit is not None}
    for measure in ("pearson", "information"):
        found: list[tuple[int, str, HeatMap]] = []
        for n, pairs in strong.items():
            before = baseline(runs, n)
            if before is not None and before in strong:
                title = f"{runs[n].name}: the features of {runs[before].name}"
                found.append((n, title, pairs.map(measure, strong[before].features)))
            if pairs.features:
                found.append((n, f"{runs[n].name}: its own", pairs.map(measure, pairs.features)))
        scaled = on_one_scale([heat for _, _, heat in found])
        for place, ((n, title, _), heat) in enumerate(zip(found, scaled, strict=True)):
            yield heat_figure(f"map-{measure}-{place}", title, n, heat)


def baseline(runs: Sequence[Run], n: int) -> int | None:
    """The first run without constraint that began from the same weights: of one seed, autoencoder, model and layer."""
    alike = ("seed", "autoencoder", "model", "layer")
    for other, run in enumerate(runs):
        same = all(run.setting(name) == runs[n].setting(name) for name in alike)
        if other != n and same and run.setting("constraint.kind") == "none" != runs[n].setting("constraint.kind"):
            return other
    return None


def _pairs_of(runs: Sequence[Run]) -> Section:
    most = max(5, PAIRS // (len(LISTS) * len(runs)))
    found = [pair for n, run in enumerate(runs) for pair in _found(n, run, most)]
    says = (
        f"The {most} pairs of each run that tell most of each other, the {most} that correlate most and as many "
        "near-duplicates. Open a pair to read the texts that its features fire most on: the first feature colours the "
        "upper half of a token, the second the lower half. `sleave audit RUN` lists more."
    )
    return Section(
        "pairs",
        "Entangled pairs",
        says,
        FOUND,
        sorted(found, key=lambda f: -f.pair.information),
        features=lambda f: (f.pair.i, f.pair.j),
        run=lambda f: f.run,
    )


def _found(n: int, run: Run, most: int) -> Iterator[Found]:
    if run.audit is None:
        return
    ranked = {title: run.audit.rankings.get(name, ())[:most] for name, title in LISTS.items()}
    ranked["near-duplicate"] = tuple(found.pair for found in run.audit.near_duplicates[:most])
    pairs: dict[tuple[int, int], tuple[PairFigures, list[str]]] = {}
    for title, ranking in ranked.items():
        for pair in ranking:
            pairs.setdefault((pair.i, pair.j), (pair, []))[1].append(title)
    yield from (Found(n, run.name, pair, tuple(lists)) for pair, lists in pairs.values())


def _texts(runs: Sequence[Run], pairs: Section) -> list[Mapping[str, Any]]:
    found: list[Mapping[str, Any]] = []
    for n, run in enumerate(runs):
        own = Section(pairs.name, "", "", (), [f for f in pairs.findings if f.run == n], features=pairs.features)
        found.append({} if run.audit is None else texts(run.audit, linked(own)))
    return found
