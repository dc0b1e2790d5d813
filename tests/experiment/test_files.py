"""Every experiment of the repository is valid, its runs have names of their own, and they are the recipes they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from sleave.experiment.grid import Cell, cells
from sleave.experiment.settings import load_experiment
from sleave.recipe import load_recipe

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.toml"))


def runs(name: str) -> dict[str, Cell]:
    path = ROOT / "experiments" / f"{name}.toml"
    return {cell.name: cell for cell in cells(load_experiment(path), path.parent)}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_experiment_of_the_repository(path):
    experiment = load_experiment(path)
    found = cells(experiment, path.parent)
    assert len({cell.name for cell in found}) == len(found) >= 2
    assert len({str(cell.recipe.harvest) for cell in found}) == 1  # one for all
    assert found[0].recipe.harvest.store
    assert (experiment.model_shape is not None) == ("papers" in path.parts)  # those cannot be reached from everywhere


@pytest.mark.parametrize(("name", "layers"), [("selective_orthogonality", (3, 8, 13))])
def test_table_1_and_both_ablations(name, layers):
    found = runs(name)
    assert len(found) == 3 * (3 * 3 + 3 + 2)
    for method in ("none", "full", "selective"):
        for layer in layers:
            for seed in range(3):
                recipe = found[f"{method}/layer_{layer:02d}/seed_{seed}"].recipe
                assert (recipe.constraint.kind, recipe.layer, recipe.seed) == (method, layer, seed)
    weights = {r.recipe.constraint.weight for r in found.values() if r.recipe.constraint.kind == "selective"}
    tops = {r.recipe.constraint.top for r in found.values() if r.recipe.constraint.kind == "selective"}
    assert (weights, tops) == ({0.05, 0.1, 0.2, 0.4}, {0.0005, 0.001, 0.005})


def test_selective_orthogonality_as_the_paper_has_it():
    found = runs("papers/selective_orthogonality")
    assert len(found) == 3 * (3 * 3 + 2 + 2)
    paper = load_recipe(ROOT / "recipes" / "papers" / "selective_orthogonality.toml")
    one = found["selective/layer_12/seed_0"].recipe
    assert one.model_copy(update={"layer": None, "harvest": paper.harvest}) == paper
    selective = [cell.recipe.constraint for cell in found.values() if cell.recipe.constraint.kind == "selective"]
    assert {c.weight for c in selective} == {0.05, 0.1, 0.2}
    assert {c.top for c in selective} == {0.0005, 0.001, 0.005}


@pytest.mark.parametrize(
    ("name", "prefix", "layer", "count"), [("mi_ortho", "local_", 13, 7), ("papers/mi_ortho", "", 19, 7 + 6)]
)
def test_methods_of_mi_ortho_are_its_recipes(name, prefix, layer, count):
    found = runs(name)
    assert len(found) == 3 * count
    for run in ("none", "run5", "run6", "run7", "run8", "run9", "run10"):
        for seed in range(3):
            recipe = load_recipe(ROOT / "recipes" / "mi_ortho" / f"{prefix}{run}.toml", {"seed": seed, "layer": layer})
            assert found[f"{run}/layer_{layer}/seed_{seed}"].recipe == recipe


def test_the_ablations_of_mi_ortho_begin_from_its_recipes():
    found = runs("mi_ortho_ablations")
    assert len(found) == 3 * (1 + 3 + 2 + 3)
    for name, run in (("none", "none"), ("run10,constraint.top=0.1", "run10")):
        recipe = load_recipe(
            ROOT / "recipes" / "mi_ortho" / f"local_{run}.toml", {"layer": 13, "training": {"steps": 300}}
        )
        assert found[f"{name}/layer_13/seed_0"].recipe == recipe
    kernels = [cell.recipe.constraint for name, cell in found.items() if name.startswith("kde")]
    assert {c.bandwidth_factor for c in kernels} == {0.1, 0.15, 0.2}
    assert {c.estimator for c in kernels} == {"kde"}
