"""Whether features that were pushed apart once come together again: MI-Ortho's open question, "features recouple".

    python -m benchmarks.recoupling RECIPE [--top 0.1] [--weight 3000] [--steps 300] [--out benchmarks/recoupling.txt]

The pairs that are chosen on the first batch, S, are followed while training goes on: at each look, how many of them are
among the T that the same criterion would choose now, on held-out rows; how many have ever left T; and how many of
those are back. Left alone, pairs come and go too, by training and by the noise of the estimate, so the first lines are
of training without a push.

  none          S is chosen and left alone
  once          S is pushed in every step, nothing else is
  released      as `once` for the first half, then left alone
  refreshed     pairs are chosen anew every 20 steps; S is what was chosen first
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from sleave import jobs
from sleave.activations.rows import Rows
from sleave.autoencoder.model import inference
from sleave.base.environment import environment
from sleave.base.progress import progress
from sleave.codes.codes import Codes, as_codes
from sleave.dependence.mutual_information import mutual_information
from sleave.dependence.pairs import Pairs
from sleave.jobs.training import finished_store, layer_of
from sleave.penalties.chosen import ChosenPairsPenalty
from sleave.recipe import Recipe, load_recipe
from sleave.training.checkpoint import Progress
from sleave.training.loop import advance, begin

METHODS = ("none", "once", "released", "refreshed")
LOOKS = 12
ROWS = 16_384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="its autoencoder, text and length of training")
    parser.add_argument("--top", type=float, default=0.1, help="share of pairs")
    parser.add_argument("--weight", type=float, default=3000.0, help="of the constraint")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    lines = [
        f"S: top {arguments.top:.1%} of pairs by mutual information on the first batch; T: on {ROWS:,} held-out rows",
        f"{'method':10s} {'step':>5s} {'in T':>7s} {'left T':>7s} {'of those back':>14s} {'mean I of S':>12s}",
    ]
    results = []
    for method in METHODS:
        for look in follow(method, arguments):
            results.append({"method": method, **look})
            lines.append(
                f"{method:10s} {look['step']:5d} {look['inside']:7.3f} {look['left']:7.3f} {look['back']:14.3f} "
                f"{look['information']:12.5f}"
            )
    lines += [
        "",
        json.dumps({"machine": environment(), "top": arguments.top, "weight": arguments.weight, "results": results}),
    ]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


def follow(method: str, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train by one method, and look at the first pairs now and then."""
    steps: int = arguments.steps
    constraint = {
        "kind": "mi",
        "top": arguments.top,
        "refresh": 20 if method == "refreshed" else 0,
        "weight": 0.0 if method == "none" else arguments.weight,
        "warmup_steps": 0,
    }
    recipe = load_recipe(arguments.recipe, {"constraint": constraint, "training": {"steps": steps}})
    source = jobs.open_source(recipe)
    stepper = begin(recipe, source.sample(max(recipe.autoencoder.d_sae, 1 << 14)))
    rows = heldout(recipe, source.scaling.apply)
    done = Progress.none(stepper)
    first: Pairs | None = None
    left: Bool[Tensor, " pairs"] | None = None
    with progress(f"Training, {method}", steps, "steps") as shown:
        while done.step < steps:
            advance(recipe, stepper, done, source.next_batch())
            if first is None or left is None:
                assert isinstance(stepper.penalty, ChosenPairsPenalty)
                assert stepper.penalty.pairs is not None
                first = stepper.penalty.pairs
                left = torch.zeros(len(first), dtype=torch.bool)
            if method == "released" and done.step == steps // 2:
                stepper.penalty = None
            if done.step == 1 or done.step % max(1, steps // LOOKS) == 0:
                with inference(stepper.sae):
                    codes = Codes.cat([as_codes(stepper.sae.codes(x)) for x in rows.split(4096)])
                inside, information = among(first, codes, arguments.top)
                back = float((inside & left).sum() / left.sum().clamp_min(1))
                yield {
                    "step": done.step,
                    "inside": float(inside.float().mean()),
                    "left": float(left.float().mean()),
                    "back": back,
                    "information": information,
                }
                left |= ~inside
            shown(1, "")


def heldout(recipe: Recipe, scaled: Any) -> Tensor:
    """Held-out rows in the units of training."""
    assert recipe.harvest.store is not None
    rows = Rows.of_store(finished_store(recipe, Path(recipe.harvest.store)), layer_of(recipe), ("heldout",), ROWS)
    return torch.cat([scaled(x) for x in rows.blocks(4096)])


def among(first: Pairs, codes: Codes, top: float) -> tuple[Bool[Tensor, " pairs"], float]:
    """Which of some pairs would be chosen now, and their mean information."""
    scores = mutual_information(codes, bins=4)
    now, d_sae = scores.top(top), codes.d_sae
    inside = torch.isin(first.i * d_sae + first.j, now.i * d_sae + now.j)
    return inside, float(scores.to_dense()[first.i, first.j].mean())


if __name__ == "__main__":
    main()
