"""Tokens a second that a language model is read at, against the rate of its matrix products, and with a store written.

    THP_MEM_ALLOC_ENABLE=1 python -m benchmarks.harvest [--tokens 6000] [--out benchmarks/harvest.txt]

Gemma 3 270M up to layer 9 (of 0 to 17), AG News, contexts of at most 128 tokens, in the precision that is fast on this
machine. `read` is what harvesting does: the model is cut off behind the layer, and contexts of like length are read
together; `compiled` is the same with `model.compile`, but for the first rounds, which compile it. `any length` reads
them in the order of the text, `whole model` up to layer 17, both padded alike otherwise. `stored` is `sleave harvest`
itself, from text to a whole store: tokenizing, hashes, moments and the disk included, the loading of the model not (its
tokens leave out those that begin a context). All are interleaved, medians of rounds over the same tokens; the floor is
the model's operations up to the layer at the rate of a product of a batch with a matrix of d_in x 4 d_in, measured in
the same run; the model's own products, of other shapes, may be faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sleave import jobs
from sleave.base.environment import environment
from sleave.base.files import dtype_name, write_text
from sleave.base.progress import progress
from sleave.experiment.cost import flops_per_token
from sleave.experiment.rates import calibrate_model
from sleave.language.contexts import Context
from sleave.language.corpora import read_corpora
from sleave.language.model import HookedModel
from sleave.language.reading import items
from sleave.language.shape import model_shape
from sleave.recipe import Recipe, load_recipe

LAYER, LAST = 9, 17
RECIPE = Path(__file__).parents[1] / "recipes" / "quickstart.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=6000, help="of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    namespace = parser.parse_args()
    harvest = {"max_tokens": namespace.tokens, "chunk_tokens": 1000, "heldout_fraction": 0.0}
    recipe = load_recipe(RECIPE, {"model": {"layers": [LAYER]}, "harvest": harvest})
    part = HookedModel.load(recipe.model)
    compiled = HookedModel.load(recipe.model.model_copy(update={"compile": True}))
    whole = HookedModel.load(recipe.model.model_copy(update={"layers": (LAST,)}))
    contexts = texts(part, recipe, namespace.tokens)
    batch = recipe.harvest.batch_tokens
    plain = in_order(contexts, batch)
    tokens = sum(len(c.token_ids) for c in contexts)
    ways: dict[str, Callable[[], float]] = {
        "read": lambda: _reading(part, contexts, part.batches(contexts, batch)),
        "compiled": lambda: _reading(compiled, contexts, part.batches(contexts, batch)),
        "any length": lambda: _reading(part, contexts, plain),
        "whole model": lambda: _reading(whole, contexts, whole.batches(contexts, batch)),
    }
    rates: dict[str, list[float]] = {name: [] for name in [*ways, "stored"]}
    with progress("Reading", namespace.rounds + 1, "rounds") as shown:
        for n in range(namespace.rounds + 1):
            for name, way in ways.items():
                if n == 0:
                    way()  # warm
                else:
                    rates[name].append(tokens / way())
            if n:
                rates["stored"].append(stored(recipe, part))
            shown(1, "")
    floor = calibrate_model(recipe, part.d_in) / flops_per_token(recipe, model_shape(recipe.model))
    lines = [f"Gemma 3 270M, {dtype_name(part.dtype)}, {tokens:,} tokens: tokens a second, of the floor"]
    lines += [
        f"{name:12s} {statistics.median(r):8,.0f}  {statistics.median(r) / floor:5.0%}" for name, r in rates.items()
    ]
    lines.append(f"{'floor':12s} {floor:8,.0f}")
    results = [
        {"what": name, "case": {"layer": LAYER}, "tokens_per_s": round(statistics.median(r), 1)}
        for name, r in rates.items()
    ]
    results.append({"what": "floor", "case": {"layer": LAYER}, "tokens_per_s": round(floor, 1)})
    lines += ["", json.dumps({"machine": environment(), "results": results})]
    print("\n".join(lines))
    if namespace.out:
        write_text(namespace.out, "\n".join(lines) + "\n")


def texts(model: HookedModel, recipe: Recipe, tokens: int) -> list[Context]:
    """Contexts of so many tokens, in the order of the text."""
    found: list[Context] = []
    for item in items(read_corpora(recipe.corpus, recipe.harvest.seed), model, recipe.harvest):
        found += item.contexts
        if sum(len(c.token_ids) for c in found) >= tokens:
            break
    return found


def in_order(contexts: list[Context], batch: int) -> list[list[int]]:
    """Batches as they come, as many tokens in each, padding included."""
    groups: list[list[int]] = []
    longest = 0
    for i, context in enumerate(contexts):
        longest = max(longest, len(context.token_ids))
        if groups and longest * (len(groups[-1]) + 1) <= batch:
            groups[-1].append(i)
        else:
            groups.append([i])
            longest = len(context.token_ids)
    return groups


def stored(recipe: Recipe, model: HookedModel) -> float:
    """Tokens a second of `sleave harvest`, given a model that is loaded."""
    load = HookedModel.load
    with tempfile.TemporaryDirectory() as folder:
        harvest = recipe.harvest.model_copy(update={"store": str(Path(folder) / "store")})
        HookedModel.load = lambda settings: model  # type: ignore[method-assign, assignment]
        try:
            began = time.perf_counter()
            store = jobs.harvest(recipe.model_copy(update={"harvest": harvest}))
            return store.num_rows("train") / (time.perf_counter() - began)
        finally:
            HookedModel.load = load  # type: ignore[method-assign]


def _reading(model: HookedModel, contexts: list[Context], batches: list[list[int]]) -> float:
    began = time.perf_counter()
    for batch in batches:
        model.activations([contexts[i] for i in batch])
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
