"""Trains toy runs in all processes that torchrun started: python train_shared.py STORE OUT CASES.json SHARDS."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from toy_run import open_source, run_settings

from sleave.base.ranks import joined
from sleave.training.loop import train
from sleave.training.run import RunDirectory


def main(store: str, out: str, cases: str, shards: str) -> None:
    torch.set_num_threads(1)
    with joined(int(shards)) as mesh:
        for name, changes in json.loads(Path(cases).read_text()).items():
            run = RunDirectory(Path(out) / name)
            if mesh.everyone.first:
                run.begin({"a": 1})
            mesh.everyone.wait()
            train(run_settings(**changes), open_source(Path(store)), run, mesh)


if __name__ == "__main__":
    main(*sys.argv[1:])
