"""How lasting a choice of pairs is: the same choice from two independent samples of batches, as Jaccard overlap.

    python -m benchmarks.choice_stability runs/mi_ortho/none [--out benchmarks/choice_stability.txt]

For each measure, from one batch and from 20 pooled, with and without shrinkage by co-activation count; beside what two
blind choices of as many pairs would share.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch

from sleave import jobs
from sleave.base.environment import environment
from sleave.base.progress import progress
from sleave.codes.codes import Codes
from sleave.dependence.correlation import Measure
from sleave.dependence.mutual_information import mutual_information
from sleave.dependence.pairs import Pairs
from sleave.dependence.selection import top_pairs
from sleave.interop.reading import load
from sleave.recipe import recipe_from
from sleave.training.run import RunDirectory

POOLED = 20
Choose = Callable[[Codes, float, float], Pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a finished run directory, its activations in place")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    samples = batches(RunDirectory(arguments.run))
    measures: dict[str, Choose] = {
        "cosine": by_correlation("cosine"),
        "Pearson": by_correlation("pearson"),
        "MI, atoms, 4 bins": by_information("atoms"),
        "MI, activity": by_information("activity"),
    }
    tops, lines, results = (0.001, 0.1), [], []
    lines.append(
        f"Jaccard overlap of T from two independent samples; {arguments.run}, {samples[0][0].rows} rows a batch"
    )
    lines.append(f"{'measure':20s} {'batches':>8s} {'shrinkage':>10s} " + "".join(f"  top {t:.1%}" for t in tops))
    with progress("Choosing pairs", len(measures) * 4, "choices") as advance:
        for name, choose in measures.items():
            for count in (1, POOLED):
                pooled = [Codes.cat(sample[:count]) for sample in samples]
                for shrinkage in (0.0, 5.0):
                    shared = [jaccard(choose, pooled, top, shrinkage) for top in tops]
                    lines.append(f"{name:20s} {count:8d} {shrinkage:10.0f} " + "".join(f"{s:10.3f}" for s in shared))
                    results.append({"measure": name, "batches": count, "shrinkage": shrinkage, "jaccard": shared})
                    advance(1, name)
    lines.append(f"{'blindly':40s} " + "".join(f"{top / (2 - top):10.3f}" for top in tops))
    lines += ["", json.dumps({"machine": environment(), "results": results})]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


@torch.no_grad()
def batches(run: RunDirectory) -> tuple[list[Codes], list[Codes]]:
    """Two samples of batches' codes that share no row."""
    source = jobs.open_source(recipe_from(run.config(), {}, where=str(run.path)))
    sae = load(run.path)
    every = [Codes.from_dense(sae.encode(source.scaling.invert(source.next_batch()))) for _ in range(2 * POOLED)]
    return every[:POOLED], every[POOLED:]


def by_correlation(measure: Measure) -> Choose:
    return lambda codes, top, shrinkage: top_pairs(codes, top, measure=measure, shrinkage=shrinkage)


def by_information(estimator: str) -> Choose:
    return lambda codes, top, shrinkage: (
        mutual_information(codes, estimator, bins=4).shrunk(shrinkage).top(top, min_coactivations=1)
    )


def jaccard(choose: Choose, pooled: list[Codes], top: float, shrinkage: float) -> float:
    a, b = (choose(codes, top, shrinkage) for codes in pooled)
    return a.jaccard(b)


if __name__ == "__main__":
    main()
