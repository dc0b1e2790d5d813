"""Harvesting and training."""

from __future__ import annotations

from contextlib import closing, nullcontext
from pathlib import Path

from sleave.activations.manifest import refuse_another_harvest
from sleave.activations.source import ActivationSource, StoredSource
from sleave.activations.store import Store
from sleave.base.device import choose_device
from sleave.base.errors import SleaveError
from sleave.base.files import exclusive
from sleave.base.progress import say
from sleave.base.ranks import Mesh, joined
from sleave.recipe import Recipe, load_recipe
from sleave.training.loop import train as train_run
from sleave.training.run import RunDirectory


def harvest(recipe: Recipe | str | Path) -> Store:
    """Make the activation store of a recipe (or of its file), go on with it, or reuse it.

    Raises:
        SleaveError: see `sleave.language.harvest.harvest`.
    """
    from sleave.language.harvest import harvest as harvest_store

    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    with joined(device=recipe.model.device) as mesh:
        return harvest_store(recipe.model, recipe.corpus, recipe.harvest, mesh.everyone)


def train(recipe: Recipe | str | Path, out: str | Path) -> list[RunDirectory]:
    """Train a recipe's autoencoder into `out`, harvesting first if its activations are not there.

    An unfinished run is resumed, a finished one is left as it is. With several layers, each is trained in a folder of
    its own, `out`/layer_05 and so on. The processes that `torchrun` starts share every batch; the first one writes.

    Args:
        recipe: the recipe, or the path of its file.
        out: the run directory.

    Raises:
        SleaveError: see `sleave.training.loop.train`; or `out` holds another run.
        Interrupted: a signal asked to stop; everything is saved.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    if Path(out).exists() and not Path(out).is_dir():
        raise SleaveError(f"`{out}` is there and is no folder. Choose another place for the run.")
    layers = recipe.model.layers if recipe.layer is None else (recipe.layer,)
    runs = [RunDirectory(Path(out) / f"layer_{layer:02d}" if len(layers) > 1 else out) for layer in layers]
    with joined(recipe.training.shards, recipe.training.device) as mesh:
        for layer, run in zip(layers, runs, strict=True):
            _train_layer(recipe.model_copy(update={"layer": layer}), run, mesh)
    return runs


def _train_layer(recipe: Recipe, run: RunDirectory, mesh: Mesh) -> None:
    run.check(recipe.to_dict())  # before anything is read
    mesh.rows.share(recipe.buffer.batch_contexts * recipe.harvest.context_length, recipe.training.accumulation)
    if mesh.everyone.all(run.finished):
        say(f"{run.path} is finished already; reusing it. Delete it or choose another --out to train again.")
        return
    source = open_source(recipe)  # first, so that a mistake in the model or the text leaves no run behind
    with closing(source), exclusive(run.path) if mesh.everyone.first else nullcontext():
        if mesh.everyone.first:
            run.begin(recipe.to_dict())
        mesh.everyone.wait()
        train_run(recipe, source, run, mesh)


def open_source(recipe: Recipe) -> ActivationSource:
    """Where a recipe's batches come from: its store (made if it is not there), or the language model itself."""
    layer = layer_of(recipe)
    if recipe.harvest.store is None:
        from sleave.language.live import LiveSource

        with joined() as mesh:
            everyone = mesh.everyone
            # On one device the two would only take turns, and torch cannot compile one while the other runs compiled.
            one, other = (choose_device(name) for name in (recipe.training.device, recipe.model.device))
            apart = (one.type, one.index or 0) != (other.type, other.index or 0)
            apart &= not (recipe.training.compile and recipe.model.compile)
            return LiveSource(
                recipe.model,
                recipe.corpus,
                recipe.harvest,
                recipe.buffer,
                layer,
                recipe.seed,
                everyone,
                read_ahead=apart and everyone.size == 1,  # ranks that read together keep in step
            )
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


def finished_store(recipe: Recipe, path: Path) -> Store:
    """A recipe's store, which must be there; the text and the model need not be there any more."""
    from sleave.language.reading import FILES, specification

    store = Store.open(path, verify=False)
    wanted = specification(recipe.model, recipe.corpus, recipe.harvest)
    refuse_another_harvest(store.path, {**store.harvest, FILES: {}}, {**wanted, FILES: {}})
    return store


def layer_of(recipe: Recipe) -> int:
    """The layer that a recipe of one layer is of."""
    return recipe.model.layers[0] if recipe.layer is None else recipe.layer
