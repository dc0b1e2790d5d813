"""Auditing anyone's autoencoder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from sleave.activations.manifest import MANIFEST, SPLITS, Manifest, Split
from sleave.activations.rows import Rows
from sleave.activations.store import Store
from sleave.auditing.audit import audit_rows
from sleave.auditing.contexts import TokenTexts
from sleave.auditing.results import Audit
from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.environment import environment
from sleave.base.errors import SampleNeeded, SleaveError, check_one_of
from sleave.base.files import read_toml, write_text
from sleave.base.progress import say
from sleave.interop.live import from_live
from sleave.interop.reading import load
from sleave.jobs.training import finished_store, harvest, layer_of
from sleave.recipe import Recipe, load_recipe, recipe_from
from sleave.report.page import page
from sleave.training.run import AUDIT, CONFIG

AUDIT_ROWS = 65_536
FEW_ROWS = 10_000
SAMPLE = 8192  # rows that tell what an autoencoder leaves open


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
    about = about_audit(name, opened, recipe, store, split)
    result = audit_rows(opened, read, pairs=pairs, token_texts=token_texts_of(recipe), about=about)
    if result.summary.fvu > 1:
        say(f"The reconstruction is worse than the mean (FVU {result.summary.fvu:.2f}): another model, layer or scale?")
    if out is not None:
        write_audit(Path(out) / AUDIT, result)
        write_text(Path(out) / "audit.html", page(result))
    return result


def about_audit(name: str, sae: SparseAutoencoder, recipe: Recipe, store: Store, split: str) -> dict[str, str]:
    """What the reader of an audit should know of where it comes from."""
    return {
        "autoencoder": name,
        "architecture": sae.architecture,
        "model": recipe.model.name,
        "layer": str(layer_of(recipe)),
        "text": str(store.model.get("dataset_path", "")),
        "rows of": {"heldout": "held-out documents", "train": "training documents", "all": "all documents"}[split],
    }


def write_audit(path: Path, audit: Audit) -> None:
    """Write an audit as JSON, on one line: it has many numbers."""
    values = audit.to_dict() | {"environment": environment()}
    write_text(path, json.dumps(values, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n")


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
    return (finished_store(recipe, path) if there else harvest(recipe)), layer_of(recipe)


def token_texts_of(recipe: Recipe) -> TokenTexts:
    """What gives the texts of tokens; their numbers, and a remark, if the tokenizer is not there any more."""
    from sleave.language.texts import token_texts

    try:
        return token_texts(recipe.model)
    except SleaveError as error:
        say(f"Tokens are shown by their numbers. {error}")
        return lambda ids: [f"<{token}>" for token in ids]
