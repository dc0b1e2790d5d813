"""Every recipe of the repository is valid, overrides land where they should, and mistakes come back all at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from sleave.base.errors import SleaveError
from sleave.base.settings import differences
from sleave.penalties.settings import FullConstraint, MIConstraint, NoConstraint, SelectiveConstraint
from sleave.recipe import Recipe, load_recipe, merged, recipe_from

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))

LEAST: dict[str, Any] = {
    "model": {"name": "packaged:gemma3-270m", "layers": [3, 8]},
    "corpus": [{"kind": "packaged", "name": "ag_news"}],
    "autoencoder": {"d_sae": 64},
}


def make(overrides: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    return recipe_from({**LEAST, **changes}, overrides or {}, where="the recipe")


def mistakes(overrides: dict[str, Any] | None = None, **changes: Any) -> list[str]:
    with pytest.raises(SleaveError) as error:
        make(overrides, **changes)
    return str(error.value).splitlines()


def test_there_are_recipes():
    assert ROOT / "recipes" / "quickstart.toml" in RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_recipe_of_the_repository(path):
    recipe = load_recipe(path)
    assert recipe_from(recipe.to_dict(), {}, where="again") == recipe


# Overrides


def test_sections_are_merged():
    recipe = make({"constraint": {"weight": 0.2}}, constraint={"kind": "selective", "top": 0.01, "weight": 0.5})
    assert recipe.constraint == SelectiveConstraint(top=0.01, weight=0.2)


def test_another_constraint_begins_from_its_own_defaults():
    given = {"kind": "selective", "top": 0.01, "weight": 0.5, "measure": "pearson"}
    assert make({"constraint": {"kind": "full"}}, constraint=given).constraint == FullConstraint()
    assert make({"constraint": {"kind": "none"}}, constraint=given).constraint == NoConstraint()
    assert make({"constraint": {"kind": "full", "weight": 2}}, constraint=given).constraint == FullConstraint(weight=2)
    assert make({"constraint": {"kind": "selective"}}, constraint=given).constraint == SelectiveConstraint(**given)


def test_any_other_kind_keeps_the_rest_of_its_section():
    optimizer = make({"optimizer": {"kind": "adamw"}}, optimizer={"lr": 1e-3}).optimizer
    assert (optimizer.kind, optimizer.lr) == ("adamw", 1e-3)
    assert make({"autoencoder": {"kind": "relu"}}).autoencoder.d_sae == 64


def test_sections_in_sections_are_merged():
    given = {"max_rows": 9, "unlearning": {"train": 20, "ce_rise": 0.3}}
    evaluation = make({"evaluation": {"unlearning": {"topics": ["Sport"]}}}, evaluation=given).evaluation
    assert evaluation.max_rows == 9
    asked = evaluation.unlearning
    assert (asked.train, asked.ce_rise, asked.topics) == (20, 0.3, ("Sport",))


def test_lists_are_replaced_and_none_unsets():
    corpus = [{"kind": "files", "paths": ["a.txt"]}]
    recipe = make(
        {"model": {"layers": [1]}, "corpus": corpus, "harvest": {"store": None}, "layer": None},
        harvest={"store": "s", "max_tokens": 5},
        layer=8,
    )
    assert recipe.model.layers == (1,)
    assert [c.kind for c in recipe.corpus] == ["files"]
    assert (recipe.harvest.store, recipe.harvest.max_tokens, recipe.layer) == (None, 5, None)


def test_overrides_leave_the_values_they_were_given():
    values = {"a": {"b": 1}}
    assert merged(values, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert values == {"a": {"b": 1}}


# Mistakes


def test_all_mistakes_at_once():
    lines = mistakes(
        {
            "constraint": {"wieght": 1},
            "training": {"steps": "many"},
            "model": {"layers": [8, 3]},
            "optimiser": {},
            "corpus": [{"kind": "files", "paths": []}, {"name": "ag_news"}],
        },
        constraint={"kind": "selective"},
    )
    assert lines == [
        "the recipe with its overrides has 6 mistakes:",
        "  `constraint.wieght` is not a setting. Did you mean `weight`?",
        "  `training.steps` (= 'many'): Input should be a valid integer, unable to parse string as an integer.",
        "  `model.layers` (= [8, 3]): must be one or more layers, 0 or above, ascending and without repeats, such as "
        "[3, 8, 13].",
        "  `corpus.0.paths` (= []): Tuple should have at least 1 item after validation, not 0.",
        "  `corpus.1.kind` is missing; it must be one of 'packaged', 'hub', 'files'.",
        "  `optimiser` is not a setting. Did you mean `optimizer`?",
    ]


def test_a_layer_that_is_not_read():
    assert mistakes(layer=5)[1:] == ["  `layer` (= 5): must be one of model.layers (= [3, 8])."]
    # With a mistake in model, that alone is told.
    assert len(mistakes(layer=5, model={"name": "x", "layers": []})) == 2


def test_what_must_be_given():
    assert mistakes({}, model={})[1:] == [
        "  `model.name` is missing; it must be given.",
        "  `model.layers` is missing; it must be given.",
    ]


def test_missing_file(tmp_path):
    with pytest.raises(SleaveError, match=r"`.*none.toml` does not exist"):
        load_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize("content", [b"[model\n", b"\xff\xfe", b"a = nan b"])
def test_not_toml(tmp_path, content):
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(SleaveError, match=r"`.*r.toml` is not valid TOML: "):
        load_recipe(tmp_path / "r.toml")


def test_a_folder_for_a_recipe(tmp_path):
    with pytest.raises(SleaveError, match=r"`.*` is a folder"):
        load_recipe(tmp_path)


# Round trip


@given(
    store=st.none() | st.text(min_size=1),
    weight=st.floats(0, 1e30),
    betas=st.tuples(*[st.floats(0, 1, exclude_max=True)] * 2),
    layer=st.sampled_from([None, 3, 8]),
    label=st.none() | st.text(),
    ratio=st.none() | st.floats(1, 1e6, exclude_min=True),
    kind=st.sampled_from(["none", "selective", "full"]),
)
def test_written_and_read_again_it_is_the_same(tmp_path_factory, store, weight, betas, layer, label, ratio, kind):
    recipe = make(
        harvest={"store": store, "max_norm_ratio": ratio},
        sparsity={"weight": weight},
        optimizer={"betas": betas},
        layer=layer,
        constraint={"kind": kind},
        corpus=[{"kind": "files", "paths": ["ü*.txt"], "label_field": label}],
    )
    path = tmp_path_factory.mktemp("recipe") / "r.toml"
    path.write_bytes(tomli_w.dumps(recipe.to_dict()).encode())
    assert load_recipe(path) == recipe
    assert load_recipe(path).to_dict() == recipe.to_dict()


# Extending another recipe


def written(folder: Path, name: str, values: dict[str, Any]) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tomli_w.dumps(values).encode())
    return path


def test_a_recipe_lies_over_the_one_it_extends(tmp_path):
    written(tmp_path, "base.toml", {**LEAST, "constraint": {"kind": "selective", "weight": 0.3}, "seed": 3})
    written(tmp_path, "middle.toml", {"extends": "base.toml", "training": {"steps": 7}})
    path = written(tmp_path, "deep/top.toml", {"extends": "../middle.toml", "constraint": {"kind": "mi"}, "seed": 4})
    recipe = load_recipe(path, {"autoencoder": {"d_sae": 32}})
    assert (recipe.seed, recipe.training.steps, recipe.autoencoder.d_sae) == (4, 7, 32)
    assert recipe.constraint == MIConstraint()


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("none.toml", r"itself\.toml` extends `.*none\.toml`, which does not exist"),
        ("itself.toml", r"extends itself, by way of"),
        (3, r"has extends = 3; it must be the path of another recipe"),
    ],
)
def test_what_cannot_be_extended(tmp_path, base, message):
    path = written(tmp_path, "itself.toml", {**LEAST, "extends": base})
    with pytest.raises(SleaveError, match=message):
        load_recipe(path)


# MI-Ortho


MI_ORTHO = ROOT / "recipes" / "mi_ortho"
RUNS = ("none", "run5", "run6", "run7", "run8", "run9", "run10")


def test_mi_ortho_as_the_paper_has_it():
    recipes = {name: load_recipe(MI_ORTHO / f"{name}.toml") for name in RUNS}
    mi = recipes["run10"]
    assert (mi.model.name, mi.model.layers, mi.autoencoder.d_sae) == ("google/gemma-2-2b", (19,), 2304)
    assert (mi.harvest.max_tokens, mi.harvest.context_length, mi.harvest.max_special_fraction) == (1_000_000, 128, 0.1)
    assert mi.buffer.batch_contexts * mi.harvest.context_length == 2048
    assert (mi.buffer.buffer_contexts, mi.training.steps, mi.sparsity.weight) == (2048, 1000, 0.04)
    assert (mi.optimizer.kind, mi.optimizer.lr, mi.optimizer.schedule) == ("adamw", 3e-4, "cosine")
    assert (mi.autoencoder.batch_norm, mi.autoencoder.dropout) == (True, 0.1)
    c = mi.constraint
    assert isinstance(c, MIConstraint)
    assert (c.estimator, c.bandwidth_factor, c.bandwidth_scale, c.normalization) == ("kde", 0.15, "absolute", "none")
    assert (c.top, c.refresh, c.tau_0, c.beta, c.weight) == (0.1, 20, 0.5, 2.0, 1.0)
    windows = [getattr(recipes[name].constraint, "window", None) for name in RUNS]
    assert windows == [None, 1, 1, 1, 5, 20, 1]
    assert [getattr(recipes[name].constraint, "refresh", None) for name in RUNS] == [None, 0, 100, 20, 20, 20, 20]


@pytest.mark.parametrize("name", RUNS)
def test_local_twins_differ_where_they_say(name):
    paper, local = (load_recipe(MI_ORTHO / f"{prefix}{name}.toml").to_dict() for prefix in ("", "local_"))
    changed = {line.split("`")[1] for line in differences(paper, local)}
    allowed = {
        *("model.name", "model.layers", "corpus", "harvest.store", "harvest.max_tokens", "harvest.max_norm_ratio"),
        *("buffer.scaling", "autoencoder.initialisation", "autoencoder.b_dec"),
        *(f"constraint.{key}" for key in ("weight", "warmup_steps", "compare", "normalization", "tau_max")),
        *(f"constraint.{key}" for key in ("estimator", "bins")),
    }
    assert changed <= allowed


def test_all_runs_differ_in_the_constraint_alone():
    for prefix in ("", "local_"):
        base = load_recipe(MI_ORTHO / f"{prefix}none.toml").to_dict()
        for name in RUNS[1:]:
            lines = differences(base, load_recipe(MI_ORTHO / f"{prefix}{name}.toml").to_dict())
            assert all(line.split("`")[1].startswith("constraint.") for line in lines)
