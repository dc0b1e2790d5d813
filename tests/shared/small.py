"""A recipe small enough to run whole in a test: a tiny language model, a few dozen short texts, a tiny autoencoder."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomli_w
from tiny import SENTENCES, make_tiny_model

from sleave.recipe import Recipe, merged, recipe_from

WORDS = " ".join(SENTENCES).split()


def make_texts(count: int = 40) -> list[str]:
    """Random texts of 3 to 30 words; the first is repeated as the last, the second has special tokens in it."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(3, 30))) for _ in range(count - 1)]
    texts[1] = "<eos>" + texts[1] + "<pad> ice"
    return [*texts, texts[0]]


def write_texts(path: Path, texts: Iterable[str]) -> Path:
    """Texts as .jsonl, each labelled with the first letter in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": t, "topic": t[:1]}) + "\n" for t in texts), encoding="utf-8")
    return path


def make_material(folder: Path, texts: Iterable[str] | None = None) -> dict[str, Any]:
    """Write a tiny model and text into a folder; returns a recipe for them as nested values."""
    make_tiny_model(folder / "model")
    write_texts(folder / "text" / "news.jsonl", make_texts() if texts is None else texts)
    return {
        "model": {"name": str(folder / "model"), "layers": [0, 2], "dtype": "float32", "device": "cpu"},
        "corpus": [{"kind": "files", "paths": [str(folder / "text" / "*.jsonl")], "label_field": "topic"}],
        "harvest": {
            "store": str(folder / "store"),
            "context_length": 8,
            "max_tokens": 100_000,
            "heldout_fraction": 0.25,
            "dtype": "float32",
            "chunk_tokens": 150,
            "batch_tokens": 64,
        },
        "buffer": {"batch_contexts": 4, "buffer_contexts": 16, "refresh_batches": 2, "scaling": "standardise"},
        "autoencoder": {"d_sae": 24},
        "constraint": {"kind": "selective", "top": 0.05},
        "training": {"steps": 6, "precision": "float32", "device": "cpu", "checkpoint_every": 2},
    }


def small_recipe(values: dict[str, Any], **overrides: Any) -> Recipe:
    """The recipe, with overrides by section: `small_recipe(values, harvest={"max_tokens": 9})`."""
    return recipe_from(values, overrides, where="the test")


def write_recipe(path: Path, values: dict[str, Any], **overrides: Any) -> Path:
    """The same as a TOML file."""
    path.write_text(tomli_w.dumps(merged(values, overrides)), encoding="utf-8")
    return path


def content(root: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
