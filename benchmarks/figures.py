"""The figures of docs/results.md and docs/scaling.md, drawn from results/*.json and what benchmarks have kept.

    python -m benchmarks.figures        -> docs/figures/frontier.svg, recoupling.svg, matrices.svg, scaling.svg

Needs matplotlib (requirements-dev.txt).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from sleave.base.files import read_json
from sleave.evaluation.figures import FVU
from sleave.evaluation.methods import value_at

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
GAINS = {  # path: title, and the aim that was set beforehand
    "heldout.correlation.p999_pearson": ("99.9th percentile of |r|", -40),
    "heldout.information.activity_noticeable": ("pairs with I > .01 nats", -80),
    "heldout.information.activity_redundant": ("pairs with I > 10%", -60),
}
AIM_FVU = 1.0  # percent
STYLE = {"svg.hashsalt": "sleave", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def main() -> None:
    """Draw all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FIGURES, help="the folder (default: docs/figures)")
    draw(parser.parse_args().out)


def draw(out: Path) -> None:
    """Draw all into a folder: the same bytes for the same numbers."""
    out.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        figures = {
            "frontier": frontier(read_json(ROOT / "results" / "frontier.json")["runs"]),
            "recoupling": recoupling(_kept("recoupling")),
            "matrices": matrices(read_json(ROOT / "results" / "matrices.json")),
            "scaling": scaling(_kept("scaling")),
        }
        for name, figure in figures.items():
            figure.savefig(out / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")


def _kept(benchmark: str) -> Sequence[Mapping[str, Any]]:
    last = (ROOT / "benchmarks" / f"{benchmark}.txt").read_text(encoding="utf-8").strip().splitlines()[-1]
    results: Sequence[Mapping[str, Any]] = json.loads(last)["results"]
    return results


def frontier(runs: Sequence[Mapping[str, Any]]) -> Figure:
    """What each constraint took off, over what it cost; a line joins weights of one method and share of pairs."""
    (baseline,) = [run["results"] for run in runs if run["method"] == "none"]
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for run in runs:
        if run["method"] != "none":
            lines.setdefault(name_of(run), []).append(run["results"])
    figure = Figure(figsize=(11, 3.6))
    axes = figure.subplots(1, len(GAINS), sharex=True)
    for axis, (path, (title, aim)) in zip(axes, GAINS.items(), strict=True):
        for name, results in lines.items():
            points = sorted((more(r, baseline, FVU), more(r, baseline, path)) for r in results)
            style = {"linewidth": 2.2} if name.startswith("informed") else {"linewidth": 1, "alpha": 0.8}
            axis.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name, **style)
        axis.fill_between([-0.5, AIM_FVU], -100, aim, color="0.9", label="the aim", zorder=0)
        axis.set(title=title, xlabel="FVU, % more than without", ylim=(-100, 0))
    axes[0].set_ylabel("% more than without")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=6, fontsize=8, frameon=False)
    return figure


def name_of(run: Mapping[str, Any]) -> str:
    """Method and what varies of it, but for its weight."""
    varied = {key.rpartition(".")[2]: value for key, value in run["settings"].items()}
    return ", ".join([run["method"], *(f"{key} {value:g}" for key, value in varied.items() if key != "weight")])


def more(results: Mapping[str, Any], baseline: Mapping[str, Any], path: str) -> float:
    """By how many percent a figure is above the baseline's."""
    return 100 * (value_at(results, path) / value_at(baseline, path) - 1)


def recoupling(looks: Sequence[Mapping[str, Any]]) -> Figure:
    """How many of the pairs that were chosen first are chosen still, and of those that left, how many are back."""
    figure = Figure(figsize=(11, 3.2))
    axes = figure.subplots(1, 3, sharex=True)
    told = {"inside": "of the first pairs, in T now", "back": "of those that ever left, back", "information": "mean I"}
    for axis, (key, title) in zip(axes, told.items(), strict=True):
        for method in dict.fromkeys(look["method"] for look in looks):
            mine = [look for look in looks if look["method"] == method]
            axis.plot([look["step"] for look in mine], [look[key] for look in mine], marker=".", label=method)
        axis.set(title=title, xlabel="step")
        axis.set_ylim(0, 1.1 * max(look[key] for look in looks if look["step"] > 1))  # it falls most in the beginning
    axes[0].legend(fontsize=7, frameon=False)
    return figure


def matrices(collected: Mapping[str, Any]) -> Figure:
    """|r| between the same features of each run, the run before first; see benchmarks/matrices.py."""
    size = len(collected["features"])
    figure = Figure(figsize=(11, 11 / len(collected["runs"])))
    axes = np.atleast_1d(figure.subplots(1, len(collected["runs"])))
    for axis, (name, run) in zip(axes, collected["runs"].items(), strict=True):
        values = np.zeros((size, size))
        values[np.triu_indices(size, 1)] = run["upper"]
        image = axis.imshow(values + values.T, vmin=0, vmax=1, cmap="magma_r", interpolation="none")
        axis.set(title=name.partition("/")[0], xticks=[], yticks=[])
    figure.colorbar(image, ax=axes, shrink=0.8, label="|r|")
    return figure


def scaling(points: Sequence[Mapping[str, Any]]) -> Figure:
    """A step of TopK at d_in 640, a penalty beside it, and a choice: against d_sae and the batch."""
    figure = Figure(figsize=(9, 3.4))
    axes = figure.subplots(1, 2, sharey=True)
    mine = [p for p in points if p["architecture"] == "topk" and p["d_in"] == 640]
    for axis, by, fixed, value in ((axes[0], "d_sae", "batch", 2048), (axes[1], "batch", "d_sae", 2560)):
        for what, label in {"step": "a step", "choice": "a choice from 4 batches", "constraint": "a penalty"}.items():
            at = sorted((p[by], 1000 * p["seconds"][what]) for p in mine if p[fixed] == value)
            axis.plot(*zip(*at, strict=True), marker="o", label=label)
        places = sorted({p[by] for p in mine if p[fixed] == value})
        axis.set(xscale="log", yscale="log", xlabel=by, title=f"{fixed} {value:,}")
        axis.set_xticks(places, [f"{place:,}" for place in places])
        axis.minorticks_off()
    axes[0].set_ylabel("ms")
    axes[0].legend(fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    main()
