"""Runs small enough to train in a moment: settings, sources over a toy store, recipes, and what a run left behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tomli_w
import toy_store

from sleave.activations.source import StoredSource
from sleave.activations.store import Store
from sleave.base.settings import parse
from sleave.language.reading import specification
from sleave.training.settings import RunSettings

BATCH = 8  # rows
SETTINGS: dict[str, Any] = {
    "seed": 5,
    "autoencoder": {"d_sae": 12, "firing_rate": 0.2},
    "sparsity": {"weight": 0.1, "warmup_steps": 4},
    "constraint": {"kind": "selective", "top": 0.1, "weight": 0.5, "refresh": 3, "window": 3, "warmup_steps": 6},
    "optimizer": {"kind": "adamw", "lr": 0.02, "weight_decay": 0.01, "schedule": "cosine", "warmup_steps": 5},
    "training": {"steps": 30, "precision": "float32", "device": "cpu", "checkpoint_every": 7, "dead_after_tokens": 40},
}


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    sections = {k: {**values.get(k, {}), **v} for k, v in changes.items() if isinstance(v, dict) and "kind" not in v}
    return {**values, **changes, **sections}


def run_settings(**changes: Any) -> RunSettings:
    """`SETTINGS` with some of them changed, section by section."""
    return parse(RunSettings, _merged(SETTINGS, changes), where="The toy settings")


def make_store(path: Path, chunks: int = 8, **changes: Any) -> Path:
    """A store of 7 training rows a chunk."""
    toy_store.fill(path, chunks, **changes)
    return path


def open_source(store: Path, seed: int = 5) -> StoredSource:
    """Batches of 8 rows out of a buffer of 28, refreshed after every second batch."""
    return StoredSource(Store.open(store), 3, "standardise", BATCH, 28, 2, seed)


def make_recipe(folder: Path, **changes: Any) -> Path:
    """A recipe whose activations are there already, so that training needs no language model."""
    values = _merged(
        {
            **SETTINGS,
            "layer": 3,
            "model": {"name": "toy", "layers": list(toy_store.LAYERS), "dtype": "float32"},
            "corpus": [{"kind": "files", "paths": ["none.txt"]}],
            "harvest": {"store": str(folder / "store"), "context_length": 4},
            "buffer": {"batch_contexts": 2, "buffer_contexts": 7, "refresh_batches": 2, "scaling": "standardise"},
        },
        changes,
    )
    from sleave.recipe import Recipe

    recipe = parse(Recipe, values, where="The toy recipe")
    harvest = specification(recipe.model, recipe.corpus, recipe.harvest)
    make_store(folder / "store", harvest=harvest)
    (folder / "toy.toml").write_text(tomli_w.dumps(values))
    return folder / "toy.toml"


def weights(run: Path) -> bytes:
    """The trained autoencoder's file, byte for byte."""
    return (run / "sae/sae_weights.safetensors").read_bytes()


def metrics(run: Path) -> list[dict[str, Any]]:
    """The metrics of every step, without the time it took; every line must be whole."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "waiting")} for line in lines]


def whole_state(run: Path) -> bytes:
    """The last checkpoint, byte for byte: weights, Adam's moments, random numbers, buffer, pairs, all of it."""
    return (run / "checkpoint.safetensors").read_bytes()
