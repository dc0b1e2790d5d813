"""The real model, on little text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sleave.recipe import Recipe, merged, recipe_from


def gemma_recipe(folder: Path, **sections: Any) -> Recipe:
    """A short run on the real model; tests share its store."""
    values = {
        "model": {"name": "packaged:gemma3-270m", "layers": [8], "device": "cpu"},
        "corpus": [{"kind": "packaged", "name": "ag_news"}],
        "harvest": {"store": str(folder / "gemma"), "max_tokens": 3000, "heldout_fraction": 0.2, "max_norm_ratio": 10},
        "buffer": {"batch_contexts": 2, "buffer_contexts": 16, "refresh_batches": 4, "scaling": "standardise"},
        "autoencoder": {"d_sae": 128},
        "training": {"steps": 10, "precision": "float32", "device": "cpu"},
    }
    return recipe_from(merged(values, sections), {}, where="the test")
