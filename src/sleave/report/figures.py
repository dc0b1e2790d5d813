"""The plots of the page of several runs: curves, frontiers, distributions, utilisation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from types import MappingProxyType

from sleave.evaluation.histogram import Histogram
from sleave.report.html import wide
from sleave.report.plot import Axis, Line, Point, key, plot
from sleave.report.reading import Run, as_number, find

CURVES: Mapping[str, tuple[str, bool]] = MappingProxyType(  # title, and whether its axis is logarithmic
    {
        "fvu": ("FVU: variance unexplained", True),
        "l0": ("L0: features that fire on a row", False),
        "loss": ("Loss, all terms", True),
        "sparsity": ("Sparsity term", True),
        "constraint": ("Constraint term", True),
        "dead": ("Dead features", False),
    }
)
FVU, L0 = ("FVU", "heldout.scaled.fvu"), ("L0", "heldout.codes.l0")
BOUGHT = (  # against what a run paid for it
    ("99.9th percentile of |r|", "heldout.correlation.p999_pearson"),
    ("99.9th percentile of I, nats", "heldout.information.p999"),
    ("pairs with activity I > 0.01", "heldout.information.activity_noticeable"),
    ("CE loss score", "fidelity.ce_loss_score"),
    ("unlearning score", "unlearning.headline"),
)


def curves(runs: Sequence[Run]) -> str:
    """Training, step by step; what is 0 throughout in every run is left out."""
    found = []
    for metric, (title, log) in CURVES.items():
        points = {n: run.curves.get(metric, ()) for n, run in enumerate(runs)}
        lines = [Line(n, runs[n].name, p) for n, p in points.items() if any(y for _, y in p)]
        found.append(plot(title, Axis("step"), Axis(title.split(":")[0], log), lines))
    return "".join(found)


def frontiers(runs: Sequence[Run]) -> str:
    """A point a run: what was bought against what it cost, with lines through runs that differ in sparsity alone."""
    axes = [(L0, FVU), *((cost, bought) for bought in BOUGHT for cost in (L0, FVU))]
    return "".join(_frontier(runs, x, y) for x, y in axes)


def _frontier(runs: Sequence[Run], x: tuple[str, str], y: tuple[str, str]) -> str:
    points: dict[int, Point] = {}
    for n, run in enumerate(runs):
        across, up = run.number(x[1]), run.number(y[1])
        if across is not None and up is not None:
            points[n] = (across, up)
    through = [Line(None, "", sorted(points[n] for n in group if n in points)) for group in methods(runs)]
    marks = [Line(n, runs[n].name, [point], joined=False, marked=True) for n, point in points.items()]
    return plot(
        f"{y[0][0].upper()}{y[0][1:]} against {x[0]}", Axis(x[0]), Axis(y[0]), [*through, *marks] if marks else []
    )


def methods(runs: Sequence[Run]) -> list[list[int]]:
    """Runs by method: those whose settings differ in nothing but sparsity."""
    groups: dict[str, list[int]] = {}
    for n, run in enumerate(runs):
        settings = {name: value for name, value in run.config.items() if name not in ("sparsity", "evaluation")}
        if isinstance(own := settings.get("autoencoder"), Mapping):
            settings["autoencoder"] = {name: value for name, value in own.items() if name != "k"}
        groups.setdefault(json.dumps(settings, sort_keys=True, default=str), []).append(n)
    return [group for group in groups.values() if len(group) > 1]


def distributions(runs: Sequence[Run]) -> str:
    """How many pairs have which |r| and which I, of those that fire together."""
    shapes = (
        ("correlation", "Correlation of pairs that fire together", Axis("|r|")),
        ("information", "Mutual information of pairs that fire together", Axis("I, nats", log=True)),
    )
    return "".join(
        plot(title, axis, Axis("pairs", log=True), list(_overlaid(runs, name, axis.log)))
        for name, title, axis in shapes
    )


def _overlaid(runs: Sequence[Run], name: str, log: bool) -> Iterator[Line]:
    for n, run in enumerate(runs):
        if run.audit is not None and name in run.audit.histograms:
            yield Line(n, run.name, steps(run.audit.histograms[name], log))


def steps(histogram: Histogram, log: bool) -> list[Point]:
    """The outline of a histogram where it holds anything; edges that are log10 become plain numbers."""
    edges = [10**edge for edge in histogram.edges] if log else list(histogram.edges)
    used = [n for n, count in enumerate(histogram.counts) if count]
    bins = range(used[0], used[-1] + 1) if used else ()
    return [(edge, float(histogram.counts[n])) for n in bins for edge in edges[n : n + 2]]


def utilisation(runs: Sequence[Run]) -> str:
    """How often features fire."""
    lines = []
    for n, run in enumerate(runs):
        density = density_of(run)
        if density is not None:
            lines.append(Line(n, run.name, steps(density, log=True)))
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("run", "active", "dead", "dense"))
    rows = "".join(_used(n, run) for n, run in enumerate(runs))
    title = "Features that fire, that never do, and that do on more than 10% of rows"
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    counts = f"<figure><figcaption>{title}</figcaption>{wide(title, table)}</figure>"
    return plot("Firing rates", Axis("share of rows", log=True), Axis("features"), lines) + counts


def _used(n: int, run: Run) -> str:
    cells = "".join(f"<td>{'-' if v is None else f'{v:,.0f}'}</td>" for v in used(run).values())
    return f'<tr data-of="{n}"><th scope="row">{key(n)} {escape(run.name)}</th>{cells}</tr>'


def used(run: Run) -> dict[str, float | None]:
    """How many features fire at all, on no row, and on more than a tenth of the rows."""
    found = {name: run.number(f"heldout.codes.{name}") for name in ("active", "dead", "dense")}
    if run.audit is not None:
        s = run.audit.summary
        audited: dict[str, float] = {"active": s.d_sae - s.dead, "dead": s.dead, "dense": s.dense}
        found = {name: audited[name] if value is None else value for name, value in found.items()}
    return found


def density_of(run: Run) -> Histogram | None:
    """The histogram of log10 firing rates: of the held-out figures, or else of the audit."""
    density = find(run.results, "heldout.codes.density")
    if isinstance(density, Mapping):
        edges, counts = ([as_number(v) or 0.0 for v in density.get(name, ())] for name in ("edges", "counts"))
        if len(edges) == len(counts) + 1 and counts:
            return Histogram(tuple(edges), tuple(int(c) for c in counts), int(as_number(density.get("below")) or 0))
    return None if run.audit is None else run.audit.histograms.get("firing_rate")
