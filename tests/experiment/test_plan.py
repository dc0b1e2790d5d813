"""A plan by hand: operations, bytes and time of recipes small enough to count; and against what real runs took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tiny_model

from sleave.base.errors import SleaveError
from sleave.cli.screen import print_table
from sleave.experiment.cost import flops_per_token, harvest_cost, step_flops, training_cost
from sleave.experiment.grid import Cell, cells
from sleave.experiment.needs import Memory, Sizes, devices, memory, task_memory
from sleave.experiment.plan import plan, table
from sleave.experiment.rates import Rates, calibrate, seconds_per_step
from sleave.experiment.settings import load_experiment
from sleave.language.model import HookedModel
from sleave.language.settings import ModelSettings, ModelShape
from sleave.language.shape import model_shape
from sleave.recipe import Recipe, load_recipe, merged, recipe_from

ROOT = Path(__file__).parents[2]
SHAPE = ModelShape(d_in=10, num_layers=4, block_parameters=100, vocabulary=50)
RATES = Rates(flops=1e6, codes=1e5, entries=1e6)
VALUES: dict[str, Any] = {
    "model": {"name": "nobody", "layers": [1]},
    "corpus": [{"kind": "packaged", "name": "ag_news"}],
    "harvest": {
        "store": "/nowhere",
        "context_length": 8,
        "max_tokens": 1000,
        "heldout_fraction": 0.2,
        "chunk_tokens": 256,
    },
    "buffer": {"batch_contexts": 4, "buffer_contexts": 100, "refresh_batches": 2},
    "autoencoder": {"d_sae": 20},
    "constraint": {"kind": "none"},
    "training": {"steps": 3, "device": "cpu", "fused": False},
}
PRODUCT = 2 * 32 * 10 * 20  # of a batch of 32 rows with the encoder
SQUARE = 2 * 32 * 20 * 20


def make(**changes: Any) -> Recipe:
    return recipe_from(VALUES, changes, where="the recipe")


def flops(**changes: Any) -> float:
    recipe = make(**changes)
    return step_flops(recipe, Sizes.of(recipe, 10))


# Operations


def test_operations_of_dense_codes():
    assert flops() == 5 * PRODUCT
    assert flops(autoencoder={"kind": "jumprelu"}) == 5 * PRODUCT
    assert flops(autoencoder={"kind": "gated"}) == 7 * PRODUCT
    assert flops(training={"gradient_checkpointing": True}) == 7 * PRODUCT
    assert flops(training={"accumulation": 2}) == 5 * PRODUCT


def test_operations_of_a_fused_step():
    entries = 4 * 2 * 32 * (0.02 * 20) * 10
    assert flops(training={"fused": True}) == pytest.approx(1.5 * PRODUCT + entries)
    plain = [{"precision": "float16"}, {"gradient_checkpointing": True}, {"device": "cuda"}, {"shards": 2}]
    for training in plain:
        assert flops(training={"fused": True, **training}) == flops(training=training)
    assert flops(training={"fused": True}, autoencoder={"dropout": 0.1}) == 5 * PRODUCT
    assert flops(training={"fused": True}, autoencoder={"kind": "jumprelu"}) == 5 * PRODUCT


def test_operations_of_constraints():
    assert flops(constraint={"kind": "full"}) == 5 * PRODUCT + 2 * SQUARE
    assert flops(constraint={"kind": "selective"}) == 5 * PRODUCT + SQUARE / 2
    assert flops(constraint={"kind": "selective", "refresh": 4}) == 5 * PRODUCT + SQUARE / 8
    assert flops(constraint={"kind": "gradient"}) == 5 * PRODUCT + (SQUARE / 2 + PRODUCT) / 3  # once in 3 steps
    assert flops(constraint={"kind": "mi"}) == 5 * PRODUCT


def test_operations_of_what_fires():
    one_product_and_four_sums = PRODUCT + 4 * 2 * 32 * 2 * 10
    for kind in ("topk", "batch_topk", "matryoshka"):
        assert flops(autoencoder={"kind": kind, "k": 2}) == one_product_and_four_sums


def test_a_harvest():
    recipe = make()
    assert flops_per_token(recipe, SHAPE) == 2 * (2 * 100 + 4 * 10 * 8 / 2)  # two blocks
    cost = harvest_cost(recipe, SHAPE)
    assert cost.tokens == 1250
    assert cost.disk == 1250 * (10 * 2 + 3 * 4)
    two = harvest_cost(make(model={"layers": [0, 1]}, harvest={"dtype": "float32"}), SHAPE)
    assert (two.flops, two.disk) == (cost.flops, 1250 * (2 * 10 * 4 + 3 * 4))


def test_live_mode_reads_as_it_trains():
    found = plan([Cell("one", make(harvest={"store": None}))], SHAPE, RATES)
    (run,) = found.runs
    assert found.harvests == ()
    assert run.tokens_harvested == 32_768 + 100 * 8 + 3 * 32
    assert run.flops == run.tokens_harvested * flops_per_token(make(), SHAPE) + 3 * 5 * PRODUCT


def test_the_disk_of_a_run():
    weights = 4 * (2 * 10 * 20)
    assert training_cost(make(), 10).disk == 4 * weights + 8 * 800 + 3 * 500


# Everything together


def test_a_plan_adds_up():
    both = [Cell(f"none/layer_01/seed_{seed}", make(seed=seed, layer=1)) for seed in (0, 1)]
    found = plan(both, SHAPE, RATES)
    (harvest,) = found.harvests  # shared
    assert (harvest.store, harvest.there, harvest.layers) == ("/nowhere", False, (1,))
    assert found.tokens == 2 * 3 * 32
    assert found.tokens_harvested == 1250
    assert found.flops == harvest.flops + 2 * 3 * 5 * PRODUCT
    assert found.disk == harvest.disk + sum(run.disk for run in found.runs)
    assert found.memory == memory(make(), SHAPE).peak
    assert found.seconds == pytest.approx(harvest.seconds + sum(run.seconds for run in found.runs))


def test_runs_that_differ_in_their_seed_are_one_row(capsys):
    runs = [Cell(f"{m}/layer_01/seed_{s}", make(seed=s, layer=1)) for m in ("none", "other") for s in (0, 1, 2)]
    print_table(table(plan(runs, SHAPE, RATES)))
    lines = capsys.readouterr().out.splitlines()
    cut = [[cell.strip() for cell in line.split("│")] for line in lines]
    assert [line[1:3] for line in cut if len(line) > 2 and "none" in line[1]] == [["none/layer_01", "3"]]
    assert any("estimate" in line for line in lines)
    assert sum("layer_01" in line for line in lines) == 2


def test_a_machine_twice_as_fast():
    for changes in ({}, {"constraint": {"kind": "full"}}, {"autoencoder": {"kind": "topk", "k": 2}}):
        recipe = make(**changes)
        slow = seconds_per_step(recipe, 10, RATES)
        assert seconds_per_step(recipe, 10, Rates(2e6, 2e5, 2e6)) == pytest.approx(slow / 2)


def test_the_plan_of_the_real_thing():
    path = ROOT / "experiments" / "papers" / "selective_orthogonality.toml"
    experiment = load_experiment(path)
    found = plan(cells(experiment, path.parent), experiment.model_shape, Rates(1e13, 1e10, 1e11))
    (harvest,) = found.harvests
    assert harvest.layers == (5, 12, 19)
    assert harvest.disk == pytest.approx(4_096_000 / 0.95 * (3 * 2304 * 2 + 12), rel=1e-6)
    assert harvest.flops == pytest.approx(4_096_000 / 0.95 * 20 * (2 * 77_865_984 + 4 * 2304 * 64), rel=1e-6)
    assert found.tokens == len(found.runs) * 1000 * 4096


def test_rates_are_those_of_this_machine(one_thread):
    rates = calibrate(make(training={"precision": "float32"}), 10)
    assert 1e7 < rates.flops < 1e15
    assert 1e6 < rates.codes < 1e13
    assert 1e6 < rates.entries < 1e13


# Shapes


def test_a_shape_from_a_config(tmp_path):
    for kind in ("gpt2", "gemma3", "llama"):
        settings = ModelSettings(name=str(make_tiny_model(tmp_path / kind, kind, num_layers=3)), layers=(2,))
        hooked = HookedModel.load(settings.model_copy(update={"dtype": "float32"}))
        parameters = sum(p.numel() for p in hooked._blocks.parameters())
        shape = ModelShape(d_in=16, num_layers=3, block_parameters=round(parameters / 3), vocabulary=400)
        assert model_shape(settings) == shape


def test_no_shape(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cell = Cell("one", make(model={"name": "nobody/nothing"}))
    with pytest.raises(SleaveError, match=r"nobody/nothing[\s\S]*\[model_shape\]\n  d_in = 2304") as error:
        plan([cell])
    assert "block_parameters" in str(error.value)
    with pytest.raises(SleaveError, match="nobody/nothing"):
        memory(cell.recipe)
    assert plan([cell], SHAPE, RATES).runs[0].name == "one"


def test_a_model_says_its_shape_once(monkeypatch):
    asked = []
    monkeypatch.setattr("sleave.experiment.plan.model_shape", lambda model: asked.append(model.revision) or SHAPE)
    monkeypatch.setattr("sleave.experiment.plan.memory", lambda recipe, shape: Memory(1, 0))
    runs = [Cell(str(seed), make(seed=seed, model={"revision": r})) for r in ("a", "b") for seed in (0, 1)]
    plan(runs, rates=RATES)
    assert asked == ["a", "b"]


def test_layers_that_the_model_has_not():
    with pytest.raises(SleaveError, match=r"`model.layers` \(= \[4\]\) must be below 4"):
        plan([Cell("one", make(model={"layers": [4]}))], SHAPE, RATES)


def test_a_store_says_how_wide_it_is(tmp_path):
    from toy_run import make_recipe

    recipe = load_recipe(make_recipe(tmp_path))  # no model, no text: all is in the store
    assert memory(recipe).mapped == 8 * 7 * 6 * 4
    there = plan([Cell("toy", recipe)], ModelShape(d_in=6, num_layers=12, block_parameters=9, vocabulary=9), RATES)
    assert [(h.there, h.seconds) for h in there.harvests] == [(True, 0.0)]
    assert there.tokens_harvested == 0


# Memory

KINDS = ("relu", "jumprelu", "gated", "topk", "batch_topk", "matryoshka")
CONSTRAINTS = ("none", "informed", "selective", "full", "mi", "gradient", "temporal", "information", "decoder")


@given(
    kind=st.sampled_from(KINDS),
    constraint=st.sampled_from(CONSTRAINTS),
    d_sae=st.integers(64, 1 << 17),
    contexts=st.integers(1, 64),
    d_in=st.integers(16, 4096),
)
def test_more_of_anything_takes_no_less_memory(kind, constraint, d_sae, contexts, d_in):
    def needed(d_in: int = d_in, **changes: Any) -> int:
        given = {"autoencoder": {"kind": kind, "d_sae": d_sae}, "buffer": {"batch_contexts": contexts}}
        given = {**given, "constraint": {"kind": constraint}, "harvest": {"context_length": 64}}
        shape = ModelShape(d_in=d_in, num_layers=4, block_parameters=100, vocabulary=50)
        buffer = {"buffer": {"buffer_contexts": 512}}
        return memory(make(**merged(merged(given, buffer), changes)), shape).peak

    least = needed()
    assert needed(autoencoder={"d_sae": 2 * d_sae}) > least
    assert needed(buffer={"batch_contexts": 2 * contexts}) >= least
    assert needed(d_in=2 * d_in) > least
    assert needed(training={"accumulation": 2}) <= least
    assert needed(training={"gradient_checkpointing": True}) <= least
    if constraint != "none":
        assert needed(constraint={"kind": "none"}) <= least


# What runs of these recipes reported: Gemma 3 270M, 2 cores of an AMD EPYC, torch 2.13. GB.
MI = ROOT / "recipes" / "mi_ortho"
QUICKSTART = ROOT / "recipes" / "quickstart.toml"
TOOK = [
    (QUICKSTART, "none", 1.28),
    (QUICKSTART, "selective", 1.43),
    (QUICKSTART, "full", 1.39),
    (MI / "local_none.toml", None, 1.41),
    (MI / "local_run5.toml", None, 1.52),
    (MI / "local_run8.toml", None, 1.60),
    (MI / "local_run9.toml", None, 1.75),
    (MI / "local_run10.toml", None, 1.57),
]


@pytest.mark.parametrize(("path", "kind", "took"), TOOK, ids=[f"{p.stem}-{k}" for p, k, _ in TOOK])
def test_memory_of_real_runs(path, kind, took):
    recipe = load_recipe(path, {"constraint": {"kind": kind}} if kind else {})
    recipe = recipe.model_copy(update={"harvest": recipe.harvest.model_copy(update={"store": "/nowhere"})})
    shape = ModelShape(d_in=640, num_layers=18, block_parameters=5_572_608, vocabulary=262_144)
    assert 0.9 <= memory(recipe, shape).peak / (took * 1e9) <= 1.3


# What `sleave evaluate` took in a process of its own, suite by suite, of the run that `make demo` trains. GB.
@pytest.mark.parametrize(("suite", "took"), [("heldout", 1.24), ("audit", 1.43), ("probing", 1.40), ("fidelity", 2.92)])
def test_memory_of_measuring_real_runs(suite, took):
    """Counted is the worse of training and measuring."""
    recipe = load_recipe(QUICKSTART)
    recipe = recipe.model_copy(update={"harvest": recipe.harvest.model_copy(update={"store": "/nowhere"})})
    shape = ModelShape(d_in=640, num_layers=18, block_parameters=5_572_608, vocabulary=262_144)
    found = task_memory(recipe, (suite,), shape)
    assert found.peak / (took * 1e9) >= 0.9
    assert found.own >= memory(recipe, shape).own
    assert found.own <= 1.3 * max(took * 1e9, memory(recipe, shape).own) or suite == "probing"


def test_without_a_suite_that_needs_it_nothing_is_asked_of_the_model(tmp_path):
    from toy_run import make_recipe

    recipe = load_recipe(make_recipe(tmp_path))  # its model does not exist
    assert task_memory(recipe, ("heldout", "audit")).own >= memory(recipe).own
    with pytest.raises(SleaveError, match="toy"):
        task_memory(recipe, ("heldout", "fidelity"))


def test_devices_that_are_computed_on():
    on_both = {"training": {"device": "cpu"}, "model": {"device": "cuda"}}
    assert devices(make(**on_both), ("heldout",)) == {"cpu"}
    assert devices(make(**on_both), ("heldout", "probing")) == {"cpu", "cuda"}
    assert devices(make(**on_both, harvest={"store": None}), ("heldout",)) == {"cpu", "cuda"}


# Mean seconds of 120 steps of the quickstart on 2 cores of an AMD EPYC with AVX2, in float32. All pairs are fewer than
# is counted on where fewer than 2% of the features fire: 1.2% at the end of that run.
STEPS = [
    ("relu", "none", 0.223, 1.5),
    ("relu", "selective", 0.253, 1.5),
    ("relu", "mi", 0.259, 1.5),
    ("relu", "full", 0.278, 2.0),
    ("topk", "none", 0.218, 1.5),
    ("topk", "informed", 0.236, 1.5),
]


@pytest.mark.parametrize(("kind", "constraint", "took", "within"), STEPS)
def test_time_of_real_runs(kind, constraint, took, within):
    """Not a test of how good the estimate is elsewhere: it pins constants that were chosen by steps like these."""
    rates = Rates(flops=112.7e9, codes=108e6, entries=28.4e9)  # measured just after those runs
    changes = {"autoencoder": {"kind": kind} | ({"k": 32} if kind == "topk" else {})}
    changes |= {"constraint": {"kind": constraint}, "training": {"steps": 120, "precision": "float32"}}
    estimate = seconds_per_step(load_recipe(QUICKSTART, changes), 640, rates)
    assert 1 / within <= estimate / took <= within


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32" or torch.cuda.is_available(), reason="no such figure there")
@pytest.mark.parametrize(
    ("kind", "constraint", "d_sae"),
    [
        ("relu", "none", 4096),
        ("relu", "selective", 4096),
        ("relu", "full", 4096),
        ("jumprelu", "none", 4096),
        ("gated", "none", 4096),
        ("topk", "none", 8192),
        ("batch_topk", "mi", 4096),
    ],
)
def test_memory_of_a_run_here(kind, constraint, d_sae):
    recipe = make(
        autoencoder={"kind": kind, "d_sae": d_sae, "firing_rate": 0.01},
        constraint={"kind": constraint},
        harvest={"context_length": 128, "max_tokens": 1},
        buffer={"batch_contexts": 24},
    )
    program = [sys.executable, str(ROOT / "tests" / "shared" / "step_memory.py"), recipe.model_dump_json(), "256", "3"]
    done = subprocess.run(program, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    took = json.loads(done.stdout)["peak"]
    estimate = memory(recipe, ModelShape(d_in=256, num_layers=4, block_parameters=100, vocabulary=50)).own
    assert 0.85 <= estimate / took <= 1.5
