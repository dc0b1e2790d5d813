"""The things one does: harvest, train, evaluate, compare, audit. Command line and Python call the same functions."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from sleave.activations.manifest import MANIFEST, SPLITS, Manifest, Split, refuse_another_harvest
from sleave.activations.source import ActivationSource, StoredSource
from sleave.activations.store import Store
from sleave.auditing.audit import audit_rows
from sleave.auditing.contexts import TokenTexts
from sleave.auditing.results import Audit
from sleave.auditing.rows import Rows
from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.environment import environment
from sleave.base.errors import SampleNeeded, SleaveError, check_one_of
from sleave.base.files import exclusive, read_toml, write_json, write_text
from sleave.base.progress import Advance, progress, say
from sleave.evaluation.evaluate import evaluate_rows
from sleave.evaluation.overlap import Overlap
from sleave.evaluation.overlap import overlap as overlap_of
from sleave.interop.live import from_live
from sleave.interop.reading import load
from sleave.recipe import Recipe, load_recipe, recipe_from
from sleave.report.page import page
from sleave.training.loop import train as train_run
from sleave.training.run import CONFIG, RunDirectory

AUDIT_ROWS = 65_536
FEW_ROWS = 10_000
SAMPLE = 8192  # rows that tell what an autoencoder leaves open


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
    if Path(out).exists() and not Path(out).is_dir():
        raise SleaveError(f"`{out}` is there and is no folder. Choose another place for the run.")
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
    rows = _finished_store(recipe, Path(recipe.harvest.store)).layer(_layer(recipe), "heldout")
    return (block.float() for block in rows.blocks(recipe.evaluation.batch_rows)), len(rows)


def _finished_store(recipe: Recipe, path: Path) -> Store:
    """A recipe's store, which must be there; the text and the model need not be there any more."""
    from sleave.language.reading import FILES, specification

    store = Store.open(path, verify=False)
    wanted = specification(recipe.model, recipe.corpus, recipe.harvest)
    refuse_another_harvest(store.path, {**store.harvest, FILES: {}}, {**wanted, FILES: {}})
    return store


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


def audit(
    sae: Any,
    recipe: Recipe | str | Path | None = None,
    out: str | Path | None = None,
    *,
    rows: int = AUDIT_ROWS,
    pairs: int = 50,
    split: str | None = None,
) -> Audit:
    """Find out how entangled an autoencoder is, and write what is found as audit.json and audit.html.

    Args:
        sae: the path of an autoencoder that `sleave.load` opens, or one in memory that `sleave.from_live` takes. Where
            it leaves something open that activations tell, the first rows tell it.
        recipe: a recipe (or its file) that names the language model, the text, the store and the layer; what is not
            there is harvested. A run directory needs none: its own config.toml is one.
        out: the folder to write into; nothing is written without one.
        rows: how many rows (tokens) to read at most.
        pairs: how many pairs each list has at most.
        split: `heldout`, `train` or `all`; by default `heldout` for a run directory without another recipe, otherwise
            `all`.

    Raises:
        SleaveError: there is no such autoencoder, recipe or store, they do not fit each other, or see `audit_rows`.
    """
    if isinstance(recipe, Tensor):
        raise SleaveError(
            "`sleave.audit` reads text through a model; for rows in memory: sleave.audit_rows(sae, rows)."
        )
    name = str(sae) if isinstance(sae, str | Path) else type(sae).__name__
    split = split or ("all" if recipe is not None else "heldout")
    check_one_of("split", split, ("heldout", "train", "all"))
    if rows < 2 or pairs < 1:  # before anything that takes long
        raise SleaveError(
            f"`rows` (= {rows}) must be at least 2 (a useful audit reads some 10,000), `pairs` (= {pairs}) at least 1."
        )
    if out is not None and Path(out).exists() and not Path(out).is_dir():
        raise SleaveError(f"`{out}` is there and is no folder. Choose another place for the audit.")
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe) if recipe else own_recipe(sae)
    read_it = load if isinstance(sae, str | Path) else from_live
    opened: SparseAutoencoder | None = None
    with suppress(SampleNeeded):  # before a harvest, which takes long, so that a wrong path is refused at once
        opened = read_it(sae)
    store, layer = _audited_store(recipe)
    splits: tuple[Split, ...] = SPLITS if split == "all" else (cast(Split, split),)
    read = Rows.of_store(store, layer, splits, rows)
    if read.count < FEW_ROWS:
        say(f"Only {read.count:,} rows: rare features and suspects say little below some {FEW_ROWS:,}.")
    if opened is None:
        opened = read_it(sae, sample=next(read.blocks(SAMPLE)))
        say(f"`{name}` leaves open how it scales or cuts: found on the first {min(SAMPLE, read.count):,} rows.")
    if store.d_in != opened.d_in:
        raise SleaveError(
            f"The autoencoder `{name}` reads activations of width {opened.d_in}, but those in `{store.path}` have "
            f"width {store.d_in}. Give the model and layer that it was trained on."
        )
    about = {
        "autoencoder": name,
        "architecture": opened.architecture,
        "model": recipe.model.name,
        "layer": str(layer),
        "text": str(store.model.get("dataset_path", "")),
        "rows of": {"heldout": "held-out documents", "train": "training documents", "all": "all documents"}[split],
    }
    result = audit_rows(opened, read, pairs=pairs, token_texts=_token_texts(recipe), about=about)
    if result.summary.fvu > 1:
        say(f"The reconstruction is worse than the mean (FVU {result.summary.fvu:.2f}): another model, layer or scale?")
    if out is not None:
        write_json(Path(out) / "audit.json", result.to_dict() | {"environment": environment()})
        write_text(Path(out) / "audit.html", page(result))
    return result


def own_recipe(sae: Any, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """What the run directory that an autoencoder's path is of says of its model, text and activations.

    Raises:
        SleaveError: it is no run directory, or its config.toml or the overrides have mistakes.
    """
    if isinstance(sae, str | Path):
        if not Path(sae).exists():
            raise SleaveError(f"`{sae}` does not exist. Give a run directory, or what another library saved.")
        for folder in (Path(sae), Path(sae).parent):  # runs/mine, and runs/mine/sae
            if (config := folder / CONFIG).is_file():
                # Not how it was trained, which does not matter and may be in the words of another version.
                kept = ("model", "corpus", "harvest", "layer", "autoencoder")
                values = {key: value for key, value in read_toml(config).items() if key in kept}
                return recipe_from(values, overrides or {}, where=f"`{config}`")
    raise SleaveError(
        "Only a run directory of `sleave train` says itself which model and text its autoencoder is for. Give a recipe "
        "that names both, the layer (`layer`) and a folder for the activations (`harvest.store`)."
    )


def _audited_store(recipe: Recipe) -> tuple[Store, int]:
    if recipe.harvest.store is None:
        raise SleaveError(
            "An audit reads activations from disk, and the recipe has no `harvest.store`. Name a folder, such as "
            "--harvest.store activations/mine; what is not there yet is harvested into it."
        )
    if recipe.layer is None and len(recipe.model.layers) > 1:
        layers = ", ".join(map(str, recipe.model.layers))
        raise SleaveError(f"The recipe reads layers {layers}. Say which one the autoencoder is of, such as --layer 8.")
    path = Path(recipe.harvest.store)
    there = (path / MANIFEST).is_file() and Manifest.read(path).complete
    return (_finished_store(recipe, path) if there else harvest(recipe)), _layer(recipe)


def _token_texts(recipe: Recipe) -> TokenTexts:
    """What gives the texts of tokens; their numbers, and a remark, if the tokenizer is not there any more."""
    from sleave.language.texts import token_texts

    try:
        return token_texts(recipe.model)
    except SleaveError as error:
        say(f"Tokens are shown by their numbers. {error}")
        return lambda ids: [f"<{token}>" for token in ids]


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
