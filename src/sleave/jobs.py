"""The things one does: harvest, train, evaluate, compare. The command line and Python call the same functions."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from sleave.activations.manifest import refuse_another_harvest
from sleave.activations.source import ActivationSource, StoredSource
from sleave.activations.store import Store
from sleave.base.errors import SleaveError
from sleave.base.files import exclusive
from sleave.base.progress import Advance, progress, say
from sleave.evaluation.evaluate import evaluate_rows
from sleave.evaluation.overlap import Overlap
from sleave.evaluation.overlap import overlap as overlap_of
from sleave.interop.reading import load
from sleave.recipe import Recipe, load_recipe, recipe_from
from sleave.training.loop import train as train_run
from sleave.training.run import RunDirectory


def harvest(recipe: Recipe | str | Path) -> Store:
    """Make the activation store of a recipe (or of its file), go on with it, or reuse it.

    Raises:
        SleaveError: see `sleave.language.harvest.harvest`.
    """
    from sleave.language.harvest import harvest as harvest_store

    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    return harvest_store(recipe.model, recipe.corpus, recipe.harvest)


def train(recipe: Recipe | str | Path, out: str | Path) -> list[RunDirectory]:
    """Train a recipe's autoencoder into `out`, harvesting first if its activations are not there.

    An unfinished run is resumed, a finished one is left as it is. With several layers, each is trained in a folder of
    its own, `out`/layer_05 and so on.

    Args:
        recipe: the recipe, or the path of its file.
        out: the run directory.

    Raises:
        SleaveError: see `sleave.training.loop.train`; or `out` holds another run.
        Interrupted: a signal asked to stop; everything is saved.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    layers = recipe.model.layers if recipe.layer is None else (recipe.layer,)
    runs = [RunDirectory(Path(out) / f"layer_{layer:02d}" if len(layers) > 1 else out) for layer in layers]
    for layer, run in zip(layers, runs, strict=True):
        one = recipe.model_copy(update={"layer": layer})
        run.check(one.to_dict())  # before anything is read
        if run.finished:
            say(f"{run.path} is finished already; reusing it. Delete it or choose another --out to train again.")
        else:
            source = open_source(one)  # first, so that a mistake in the model or the text leaves no run behind
            with exclusive(run.path):
                run.begin(one.to_dict())
                train_run(one, source, run)
    return runs


def evaluate(run: RunDirectory | str | Path, store: str | None = None, *, again: bool = False) -> dict[str, Any]:
    """Evaluate a finished run on held-out rows, and keep the result in its results.json.

    Args:
        run: the run, or the path of its directory.
        store: where its activation store is now, if it moved.
        again: evaluate even if results.json has an evaluation.

    Raises:
        SleaveError: the run is unfinished, or its activations or weights are missing or damaged.
    """
    run = run if isinstance(run, RunDirectory) else RunDirectory(run)
    config = run.config()
    if not run.finished:
        raise SleaveError(f"`{run.path}` is not finished. Run the same `sleave train` command again: it goes on.")
    if again or store is not None or "evaluation" not in run.results():
        recipe = recipe_from(config, {"harvest": {"store": store}} if store else {}, where=f"`{run.config_file}`")
        batches, rows = _heldout(recipe)
        with progress(f"Evaluating {run.path}", min(rows, recipe.evaluation.max_rows), "rows") as advance:
            result = evaluate_rows(
                load(run.path), _counted(batches, advance), run.scaling(), recipe.evaluation.max_rows
            )
        run.add_results("evaluation", result.to_dict())
    return run.results()


def _counted(batches: Iterator[Tensor], advance: Advance) -> Iterator[Tensor]:
    for batch in batches:
        advance(len(batch), "")  # before: whoever has enough rows does not come back
        yield batch


def _heldout(recipe: Recipe) -> tuple[Iterator[Tensor], float]:
    """Raw held-out rows, and how many there are (infinity, if that is not known); nothing is harvested for it."""
    if recipe.harvest.store is None:
        return open_source(recipe).heldout(recipe.evaluation.batch_rows), math.inf
    from sleave.language.reading import FILES, specification

    store = Store.open(Path(recipe.harvest.store), verify=False)
    wanted = specification(recipe.model, recipe.corpus, recipe.harvest)
    # The text and the model need not be there any more.
    refuse_another_harvest(store.path, {**store.harvest, FILES: {}}, {**wanted, FILES: {}})
    rows = store.layer(_layer(recipe), "heldout")
    return (block.float() for block in rows.blocks(recipe.evaluation.batch_rows)), len(rows)


def _layer(recipe: Recipe) -> int:
    return recipe.model.layers[0] if recipe.layer is None else recipe.layer


def open_source(recipe: Recipe) -> ActivationSource:
    """Where a recipe's batches come from: its store (made if it is not there), or the language model itself."""
    layer = _layer(recipe)
    if recipe.harvest.store is None:
        from sleave.language.live import LiveSource

        return LiveSource(recipe.model, recipe.corpus, recipe.harvest, recipe.buffer, layer, recipe.seed)
    rows = recipe.harvest.context_length
    return StoredSource(
        harvest(recipe),
        layer,
        recipe.buffer.scaling,
        recipe.buffer.batch_contexts * rows,
        recipe.buffer.buffer_contexts * rows,
        recipe.buffer.refresh_batches,
        recipe.seed,
    )


def overlap(first: RunDirectory | str | Path, second: RunDirectory | str | Path) -> Overlap:
    """How far two runs agree on which pairs to push apart, their features matched by decoder direction.

    Raises:
        SleaveError: a run is unfinished or chose no pairs, or they read different widths.
    """
    runs = [r if isinstance(r, RunDirectory) else RunDirectory(r) for r in (first, second)]
    pairs = (runs[0].pairs(), runs[1].pairs())
    return overlap_of(load(runs[0].path).W_dec, load(runs[1].path).W_dec, pairs)


def runs_in(path: str | Path) -> list[RunDirectory]:
    """The run at a path, or all runs below it.

    Raises:
        SleaveError: there is none.
    """
    path = Path(path)
    found = (
        [path]
        if (path / "config.toml").is_file()
        else sorted((p.parent for p in path.glob("**/config.toml")), key=_natural)
    )
    if not found:
        raise SleaveError(f"There is no run at `{path}`: no config.toml there or below. See `sleave train`.")
    return [RunDirectory(p) for p in found]


def _natural(path: Path) -> list[tuple[int, str]]:
    """Orders run5 before run10."""
    return [(int(part or 0), "") if n % 2 else (0, part) for n, part in enumerate(re.split(r"(\d+)", str(path)))]
