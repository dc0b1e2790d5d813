"""A program that trains on made-up rows and says what it took: `python step_memory.py RECIPE D_IN STEPS`."""

import json
import statistics
import sys
import time

import torch

from sleave.base.environment import peak_memory
from sleave.recipe import Recipe
from sleave.training.checkpoint import Progress
from sleave.training.loop import advance, begin


def main(recipe: Recipe, d_in: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(4 * d_in, d_in, generator=generator)
    rows = recipe.buffer.batch_contexts * recipe.harvest.context_length

    def batch(n: int) -> torch.Tensor:
        """Sums of a few directions each, at about one unit in each dimension."""
        x = torch.zeros(n, d_in)
        for _ in range(6):
            x += directions[torch.randint(len(directions), (n,), generator=generator)] * torch.rand(n, 1)
        return x / 1.4

    stepper = begin(recipe, batch(max(8192, recipe.autoencoder.d_sae)))
    done = Progress.none(stepper)
    seconds = []
    for _ in range(steps):
        x = batch(rows)
        began = time.perf_counter()
        result = advance(recipe, stepper, done, x)
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"peak": peak_memory(), "seconds": statistics.median(seconds[1:]), "l0": result.l0}))


if __name__ == "__main__":
    main(Recipe.model_validate_json(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
