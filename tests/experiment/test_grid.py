"""The file of an experiment, and the runs that it means."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from grids import write_experiment
from toy_run import make_recipe

from sleave.base.errors import SleaveError
from sleave.experiment.grid import cells
from sleave.experiment.settings import load_experiment
from sleave.recipe import Recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    make_recipe(folder)
    return folder


def grid(folder: Path, **changes) -> dict[str, Recipe]:
    """By name, in their order."""
    file = write_experiment(folder / "grid.toml", "toy.toml", **changes)
    return {cell.name: cell.recipe for cell in cells(load_experiment(file), folder)}


def refused(folder: Path, **changes) -> str:
    with pytest.raises(SleaveError) as error:
        grid(folder, **changes)
    return str(error.value)


def test_every_method_at_every_layer_with_every_seed(folder):
    found = grid(folder, seeds=[0, 1], layers=[3, 8])
    assert list(found) == [
        f"{method}/layer_{layer:02d}/seed_{seed}"
        for seed in (0, 1)
        for layer in (3, 8)
        for method in ("none", "selective")
    ]
    for name, recipe in found.items():
        assert name == f"{recipe.constraint.kind}/layer_{recipe.layer:02d}/seed_{recipe.seed}"
    assert found["selective/layer_08/seed_1"].constraint.weight == 0.5  # the recipe's


def test_layers_are_the_recipes_if_none_are_given(folder):
    assert [recipe.layer for recipe in grid(folder, layers=[], methods={"none": {}}).values()] == [3, 3, 8, 8]


def test_settings_that_vary_in_all_combinations(folder):
    vary = {"constraint": {"weight": [0.05, 0.2]}, "autoencoder.d_sae": [12, 24]}  # a table, and a key in quotes
    found = grid(folder, grid=[{"methods": ["selective"], "vary": vary}])
    assert {name.split("/")[0]: (r.constraint.weight, r.autoencoder.d_sae) for name, r in found.items()} == {
        f"selective,autoencoder.d_sae={d_sae},constraint.weight={weight}": (weight, d_sae)
        for weight in (0.05, 0.2)
        for d_sae in (12, 24)
    }


def test_a_run_that_several_grids_have_is_made_once(folder):
    vary = {"constraint.weight": [0.1, 0.5, 0.1]}  # 0.5 is the recipe's
    found = grid(folder, grid=[{}, {"methods": ["selective"], "vary": vary}])
    assert [name.split("/")[0] for name in found] == ["none", "selective", "selective,constraint.weight=0.1"]


def test_methods_that_mean_the_same_are_one_run(folder):
    assert list(grid(folder, methods={"again": {"constraint": {"kind": "none"}}})) == [
        "none/layer_03/seed_5",
        "selective/layer_03/seed_5",
    ]


def test_a_grids_own_layers_and_seeds(folder):
    found = grid(folder, grid=[{"methods": ["none"], "layers": [8], "seeds": [1, 2]}])
    assert list(found) == ["none/layer_08/seed_1", "none/layer_08/seed_2"]


def test_a_kind_that_changes_begins_from_its_defaults(folder):
    found = grid(folder, methods={"full": {"constraint": {"kind": "full"}}}, grid=[{"methods": ["full"]}])
    assert found["full/layer_03/seed_5"].constraint.weight != 0.5  # which was meant for `selective`


@pytest.mark.parametrize("keys", [("kind", "weight"), ("weight", "kind")])
def test_a_kind_and_a_weight_vary_in_either_order(folder, keys):
    values = {"kind": ["full", "selective"], "weight": [0.05, 0.3]}
    found = grid(folder, grid=[{"methods": ["selective"], "vary": {f"constraint.{key}": values[key] for key in keys}}])
    kept = {(recipe.constraint.kind, recipe.constraint.weight) for recipe in found.values()}
    assert kept == {(kind, weight) for kind in values["kind"] for weight in values["weight"]}
    for name, recipe in found.items():
        assert f"constraint.weight={recipe.constraint.weight}" in name


def test_what_a_method_changes_stays_when_its_kind_varies(folder):
    methods = {"heavy": {"constraint": {"weight": 0.7}}}
    found = grid(folder, methods=methods, grid=[{"methods": ["heavy"], "vary": {"constraint.kind": ["full"]}}])
    assert [(r.constraint.kind, r.constraint.weight) for r in found.values()] == [("full", 0.7)]


def test_values_make_names_of_folders(folder):
    vary = {"harvest.store": ["a/b c", "../d"], "optimizer.betas": [[0.9, 0.99]]}
    for name in grid(folder, methods={"none": {}}, grid=[{"methods": ["none"], "vary": vary}]):
        assert name.count("/") == 2
        assert ".." not in name.split("/")
        assert " " not in name


# Mistakes


def test_unknown_method(folder):
    message = refused(folder, grid=[{"methods": ["selectiv"]}])
    assert message == "A grid names `selectiv`, which is no method. Did you mean `selective`?"


def test_wrong_keys_are_listed_all_each_once(folder):
    methods = {"none": {"constraint": {"wieght": 1}}, "selective": {"training": {"step": 3}}}
    lines = refused(folder, methods=methods, seeds=[0, 1]).splitlines()
    assert lines[0].startswith("Run none/layer_03/seed_0: The recipe `")
    assert lines[2].startswith("Run selective/layer_03/seed_0: The recipe `")
    assert lines[3] == "  `training.step` is not a setting. Did you mean `steps`?"
    assert len(lines) == 4


def test_wrong_key_of_what_varies(folder):
    message = refused(folder, grid=[{"vary": {"constraint.wieght": [1]}}])
    assert "`constraint.wieght` is not a setting" in message


def test_wrong_key_of_the_file(folder):
    assert "`grids` is not a setting. Did you mean `grid`?" in refused(folder, grids=[{}])


def test_a_layer_that_is_not_read(folder):
    assert "`layer` (= 5): must be one of model.layers (= [3, 8])" in refused(folder, layers=[5])


def test_seeds_do_not_vary(folder):
    message = refused(folder, grid=[{"vary": {"seed": [1, 2]}}])
    assert "`seed` is not varied here; give `seeds` of the grid" in message


def test_a_value_that_does_not_vary(folder):
    assert "grid.0.vary.constraint.weight" in refused(folder, grid=[{"vary": {"constraint": {"weight": 3}}}])


@pytest.mark.parametrize("name", ["a/b", "..", "", "a b", "-x"])
def test_a_methods_name_must_be_a_folders(folder, name):
    assert "a method's name becomes a folder" in refused(folder, methods={name: {}})


def test_two_runs_of_one_name(folder):
    message = refused(
        folder, methods={"none": {}}, grid=[{"methods": ["none"], "vary": {"model.name": ["a b", "a/b"]}}]
    )
    assert message.startswith("Several runs would be called none,model.name=a_b/layer_03/seed_5. Give such a value")


def test_a_value_that_another_replaces(folder):
    vary = {"constraint.weight": [0.2], "constraint": [{"weight": 0.3}]}
    message = refused(folder, grid=[{"methods": ["selective"], "vary": vary}])
    assert "`constraint.weight` = 0.2 comes to nothing, since another key of `vary` replaces it" in message


def test_a_value_too_long_for_a_folder(folder):
    corpus = [[{"kind": "files", "paths": ["a.txt"], "text_field": "x" * 200}]]
    message = refused(folder, grid=[{"methods": ["none"], "vary": {"corpus": corpus}}])
    assert re.match(r"A folder's name of 2\d\d bytes is too long \(at most 200\): none,corpus=", message)
    assert message.endswith("Give such a value in a method of its own.")


@pytest.mark.parametrize("name", ["experiment.json", "table.md", "table.csv", "report.html", "logs", "Logs"])
def test_a_method_is_not_called_like_a_file_of_the_experiment(folder, name):
    assert "a file of the experiment's own folder; call the method something" in refused(folder, methods={name: {}})


def test_missing_recipe(folder):
    file = write_experiment(folder / "grid.toml", "nowhere.toml")
    with pytest.raises(SleaveError, match=r"The experiment's recipe `.*nowhere.toml` does not exist"):
        cells(load_experiment(file), folder)


def test_a_folder_is_no_experiment(folder):
    with pytest.raises(SleaveError, match=r"is a folder. Give one experiment in it"):
        load_experiment(folder)
