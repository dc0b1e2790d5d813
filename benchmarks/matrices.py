"""How much the most entangled features of a run share there, and in runs that began from the same weights.

    sleave evaluate RUN... --suite audit
    python -m benchmarks.matrices RUN... [--out results/matrices.json]

The first run is the one before: its features are 96, those of its strongest pairs, like ones next to each other. They
are looked up in each run's 30,000 strongest pairs; a pair below the weakest of those counts as 0.
`python -m benchmarks.figures` draws them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from sleave.base.environment import environment
from sleave.base.errors import SleaveError
from sleave.base.files import write_json
from sleave.report.heat import Strong
from sleave.report.reading import read_runs
from sleave.training.run import RunDirectory

MEASURE, DIGITS = "pearson", 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories, the one before first")
    parser.add_argument("--out", type=Path, default=Path("results/matrices.json"))
    arguments = parser.parse_args()
    try:
        runs = read_runs([RunDirectory(path) for path in arguments.runs])
    except SleaveError as error:
        parser.error(str(error))
    features: tuple[int, ...] = ()
    maps = {}
    for run in runs:
        if run.audit is None:
            parser.error(f"`{run.path}`: {run.remarks[0]}")
        strong = Strong(run.audit.strong)
        features = features or strong.features
        heat = strong.map(MEASURE, features)
        upper = heat.values[np.triu_indices(len(features), 1)]
        maps[run.name] = {"least": heat.least, "upper": np.round(upper, DIGITS).tolist()}
        print(
            f"{run.name}: |r| of {len(upper):,} pairs: mean {upper.mean():.3f} (below {heat.least:.3f} counted as 0), "
            f"above 0.3: {(upper > 0.3).sum():,}"
        )
    write_json(arguments.out, {"machine": environment(), "measure": MEASURE, "features": features, "runs": maps})


if __name__ == "__main__":
    main()
