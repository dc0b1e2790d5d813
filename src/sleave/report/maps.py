"""Heat maps of several runs: before and after a constraint, and of what is most entangled in each."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from sleave.report.heat import MEASURES, HeatMap, Strong, heat_figure, on_one_scale
from sleave.report.reading import Run

Drawn = tuple[str, list[dict[str, Any]]]  # HTML, and data for the script
Place = tuple[int, str, HeatMap]  # which run, the title, the map


def heat_maps(runs: Sequence[Run]) -> Drawn:
    """By each measure, on one scale: the features of a run without constraint in the runs that began as it did, and
    each run's own most entangled features."""
    strong = {n: Strong(run.audit.strong) for n, run in enumerate(runs) if run.audit is not None}
    strong = {n: pairs for n, pairs in strong.items() if pairs.features}
    html = ""
    data: list[dict[str, Any]] = []
    for measure, (symbol, _) in MEASURES.items():
        groups = {
            **_before_and_after(runs, strong, measure),
            f"{symbol}: the most entangled features of each run": [
                (n, runs[n].name, pairs.map(measure, pairs.features)) for n, pairs in strong.items()
            ],
        }
        scaled = iter(on_one_scale([heat for group in groups.values() for _, _, heat in group]))
        for title, group in groups.items():
            drawn = []
            for n, name, _ in group:
                figure, cells = heat_figure(f"map-{len(data)}", name, n, next(scaled))
                drawn.append(figure)
                data.append(cells)
            if drawn:
                html += f'<h3>{escape(title)}</h3><div class="figures maps">{"".join(drawn)}</div>'
    return html, data


def _before_and_after(runs: Sequence[Run], strong: dict[int, Strong], measure: str) -> dict[str, list[Place]]:
    """For each run without constraint, its features in itself and in the runs that began from the same weights."""
    groups: dict[str, list[Place]] = {}
    symbol, _ = MEASURES[measure]
    for n, pairs in strong.items():
        before = baseline(runs, n)
        if before in strong:
            features = strong[before].features
            title = (
                f"{symbol}: the features most entangled in {runs[before].name}, in each run that began from its weights"
            )
            own = (before, f"{runs[before].name} (before)", strong[before].map(measure, features))
            groups.setdefault(title, [own]).append((n, runs[n].name, pairs.map(measure, features)))
    return groups


def baseline(runs: Sequence[Run], n: int) -> int | None:
    """The first run without constraint that began from the same weights: of one seed, autoencoder, model and layer."""
    alike = ("seed", "autoencoder", "model", "layer")
    if runs[n].setting("constraint.kind") == "none":
        return None
    for other, run in enumerate(runs):
        same = all(run.setting(name) == runs[n].setting(name) for name in alike)
        if same and run.setting("constraint.kind") == "none":
            return other
    return None
