"""Runs side by side as one HTML page: what each gained, what it cost, and what is still entangled in it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from sleave.evaluation.compare import compare
from sleave.evaluation.table import LEGEND, difference_rows, notes, screen_table, warnings
from sleave.report.figures import curves, distributions, frontiers, utilisation
from sleave.report.html import document, links, none, section, wide
from sleave.report.maps import heat_maps
from sleave.report.pairs import entangled_pairs, texts_of
from sleave.report.plot import key, number
from sleave.report.reading import Run
from sleave.report.tables import filter_field, head, listed
from sleave.report.unlearning import unlearning

UNMEASURED = "Not measured: sleave evaluate RUN --suite audit"
SETTINGS = (  # head, what it says, where it is in config.toml, whether it is text
    ("constraint", "what pushes features apart, and how hard", "constraint", True),
    ("autoencoder", "its architecture", "autoencoder.kind", True),
    ("features", "d_sae", "autoencoder.d_sae", False),
    ("sparsity", "its weight, or k", "sparsity.weight", False),
    ("seed", "of all that is random", "seed", False),
    ("steps", "updates", "training.steps", False),
)


def overview(runs: Sequence[Run]) -> str:
    """The page. Same files, same page, to the byte."""
    pairs = entangled_pairs(runs)
    maps, cells = heat_maps(runs)
    legend = _legend(runs)
    parts = [
        ("runs", "Runs", "A run that is not ticked is hidden everywhere below.", _runs(runs)),
        ("figures", "Figures", "On text that training never saw.", _figures(runs)),
        (
            "comparison",
            "Less the baseline",
            "What each gained and cost beside runs without a constraint, with 95% intervals; verdicts only at like L0.",
            _comparison(runs),
        ),
        ("training", "Training", "Each point is the mean of a few steps.", legend + _grid(curves(runs), "No metrics.")),
        (
            "frontier",
            "Frontier",
            "One point a run, on held-out rows; a line goes through runs that differ in sparsity alone. Further down "
            "is less entangled; compare at like L0, or at like FVU.",
            legend + _grid(frontiers(runs), "Not measured: sleave evaluate RUN"),
        ),
        (
            "maps",
            "What features share",
            "Each cell is a pair of features; like ones are beside each other. Maps of one measure have one scale.",
            maps or none(UNMEASURED),
        ),
        (
            "scores",
            "Scores of pairs",
            "All pairs that fire together; counts are logarithmic.",
            legend + _grid(distributions(runs), UNMEASURED),
        ),
        (
            "use",
            "Use of features",
            "How many features fire how often. Dead ones fire on no row and are not in the plot.",
            legend + _grid(utilisation(runs), UNMEASURED),
        ),
        (
            "unlearning",
            "Unlearning",
            "How much of a topic is forgotten, against what that costs on text to be retained.",
            unlearning(runs, legend),
        ),
    ]
    body = [section(*part) for part in parts]
    body.append(
        listed(pairs, with_texts=True) if pairs.findings else section("pairs", pairs.title, "", none(UNMEASURED))
    )
    title = f"Report of {runs[0].name if len(runs) == 1 else f'{len(runs)} runs'}"
    titles = {name: title for name, title, *_ in parts} | {"pairs": pairs.title}
    header = f"<h1>{escape(title)}</h1>{_about(runs)}{links(titles)}"
    return document(title, header, "\n".join(body), {"texts": texts_of(runs, pairs), "maps": cells})


def _grid(figures: str, otherwise: str) -> str:
    return f'<div class="figures">{figures}</div>' if figures else none(otherwise)


def _about(runs: Sequence[Run]) -> str:
    """Which language models and layers the runs read."""
    read = {f"{run.setting('model.name')}, layer {run.setting('layer')}": None for run in runs}
    return f"<p>{escape('; '.join(read))}</p>"


def _runs(runs: Sequence[Run]) -> str:
    heads = "".join(head(name, says, of_text) for name, says, _, of_text in SETTINGS)
    rows = "".join(_run(n, run) for n, run in enumerate(runs))
    table = (
        '<table id="runs-rows"><caption class="unseen">Runs</caption><thead><tr><th scope="col">run</th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table>"
    )
    remarks = "".join(f"<li><b>{escape(run.name)}</b>: {escape(remark)}</li>" for run in runs for remark in run.remarks)
    return wide("Runs", table) + (f'<ul class="remarks">{remarks}</ul>' if remarks else "")


def _run(n: int, run: Run) -> str:
    box = (
        f'<label><input type="checkbox" class="show" data-run="{n}" checked autocomplete="off"> {key(n)} '
        f"<span>{escape(run.name)}</span></label>"
    )
    cells = "".join(_setting(_value(run, path), of_text) for _, _, path, of_text in SETTINGS)
    return f'<tr><th scope="row">{box}</th>{cells}</tr>'


def _value(run: Run, path: str) -> Any:
    if path == "constraint":
        kind, weight = run.setting("constraint.kind"), run.setting("constraint.weight")
        return kind if weight is None else f"{kind}, {weight}"
    k = run.setting("autoencoder.k") if path == "sparsity.weight" else None
    return run.setting(path) if k is None else k


def _setting(value: Any, of_text: bool) -> str:
    if isinstance(value, int | float) and not of_text:
        return f'<td data-value="{value!r}">{number(value)}</td>'
    return f"<td{' class=text' * of_text}>{escape('' if value is None else str(value))}</td>"


def _legend(runs: Sequence[Run]) -> str:
    items = "".join(f'<li data-of="{n}">{key(n)} {escape(run.name)}</li>' for n, run in enumerate(runs))
    return f'<ul class="legend" aria-label="Runs">{items}</ul>'


def _figures(runs: Sequence[Run]) -> str:
    """The table that `sleave evaluate` prints, and what it warns of."""
    results = {run.path: run.results for run in runs}
    heads = "".join(f'<th scope="col" data-of="{n}">{key(n)} {escape(run.name)}</th>' for n, run in enumerate(runs))
    columns = [list(column.cells) for column in screen_table(results).columns]
    rows = "".join(_figure(row) for row in zip(*columns, strict=True))
    remarks = "".join(f'<p class="remarks">{escape(remark)}</p>' for remark in warnings(results))
    table = (
        '<table id="figures-rows"><caption class="unseen">Figures of each run</caption>'
        f'<thead><tr><th scope="col">figure</th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    )
    meanings = f"<details><summary>What the figures say</summary><p>{escape(LEGEND)}</p></details>"
    return (
        f"{remarks}{filter_field('figures', len(columns[0]), 'FVU, percentile, ...')}{wide('Figures', table)}{meanings}"
    )


def _comparison(runs: Sequence[Run]) -> str:
    """The second table that `sleave evaluate` prints."""
    results = {run.path: run.results for run in runs}
    compared = compare(results) if len(runs) > 1 else ()
    if not compared:
        return none("It takes two runs, one of them without a constraint, and `sleave evaluate RUN` of both.")
    names = {run.path: run.name for run in runs}
    heads, *rows = difference_rows(compared, names)
    above = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads[1:])
    table = (
        '<table id="comparison-rows"><caption class="unseen">Differences to the baseline</caption>'
        f'<thead><tr><th scope="col">figure</th>{above}</tr></thead>'
        f"<tbody>{''.join(map(_difference, rows))}</tbody></table>"
    )
    remarks = "".join(f'<p class="remarks">{escape(note)}</p>' for note in notes(compared, names))
    return remarks + wide("Less the baseline", table)


def _difference(row: Sequence[str]) -> str:
    """A method may be several runs, so nothing is hidden with one of them."""
    name, *cells = map(escape, row)
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _figure(row: Sequence[Any]) -> str:
    name, *cells = (escape(str(cell)) for cell in row)
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td data-of={n}>{c}</td>" for n, c in enumerate(cells))}</tr>'
