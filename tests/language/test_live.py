"""The live mode hands out the rows that a harvest would keep, and goes on to the bit after a stop."""

from __future__ import annotations

import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from small import content, make_material, make_texts, small_recipe, write_texts

from sleave import jobs
from sleave.activations.source import ActivationSource
from sleave.activations.store import Store
from sleave.base.errors import SleaveError
from sleave.base.files import load_tensors, save_tensors
from sleave.language import live
from sleave.language.live import LiveRows, LiveSource
from sleave.language.model import HookedModel
from sleave.recipe import Recipe
from sleave.training.interruption import Interrupted
from sleave.training.run import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread")

LAYER = 2


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_material(tmp_path_factory.mktemp("live"), make_texts(14))


@pytest.fixture(scope="module")
def harvested(material) -> Store:
    return jobs.harvest(small_recipe(material))


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(live, "FIRST_ROWS", 150)
    monkeypatch.setattr(live, "GROUP_ROWS", 50)


def make_recipe(material: dict[str, Any], **overrides: Any) -> Recipe:
    return small_recipe(small_recipe(material, harvest={"store": None}, layer=LAYER).to_dict(), **overrides)


def make_source(recipe: Recipe) -> LiveSource:
    source = jobs.open_source(recipe)
    assert isinstance(source, LiveSource)
    assert isinstance(source, ActivationSource)
    return source


def make_rows(recipe: Recipe, heldout: bool = False) -> LiveRows:
    return LiveRows(HookedModel.load(recipe.model), LAYER, recipe.corpus, recipe.harvest, heldout)


def stored_rows(store: Store, split: Any = "train") -> torch.Tensor:
    return torch.cat(list(store.layer(LAYER, split).blocks()))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    # Not to the bit: here contexts run in other batches.
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)


# Rows


def test_the_stream_is_the_harvest_over_and_over(material, harvested):
    rows = make_rows(make_recipe(material))
    expected = stored_rows(harvested)
    n = len(expected)
    found = torch.cat([rows.read(size) for size in (1, 49, 200, n, 3, n)])
    close(found, expected.repeat(4, 1)[: len(found)])


def test_massive_rows_are_left_out(material, harvested):
    rows = make_rows(make_recipe(material))
    expected = stored_rows(harvested)
    limit = float(expected.norm(dim=1).median())
    rows.limits = {LAYER: limit}
    kept = expected[expected.norm(dim=1) <= limit]
    close(rows.read(len(kept)), kept)


def test_batches_are_a_permutation_of_the_harvested_rows(material, harvested):
    scaling = {"scaling": "none", "batch_contexts": 4, "buffer_contexts": 16, "refresh_batches": 4}
    source = make_source(make_recipe(material, buffer=scaling))
    expected = stored_rows(harvested)
    assert 128 < len(expected) < 512  # the text ends within the batches below
    stream = expected.repeat(4, 1)
    for window in range(4):  # of 128 rows each, all of them handed out before the next ones are read
        batches = torch.cat([source.next_batch() for _ in range(4)])
        wanted = stream[128 * window : 128 * (window + 1)]
        assert batches.shape == wanted.shape
        assert not torch.allclose(batches, wanted, atol=1e-3)  # shuffled
        close(batches.sort(dim=0).values, wanted.sort(dim=0).values)
        distance = torch.cdist(batches.double(), wanted.double())
        assert float(distance.min(dim=0).values.max()) < 1e-4
        assert float(distance.min(dim=1).values.max()) < 1e-4


def test_heldout_rows_are_those_of_the_heldout_documents(material, harvested):
    source = make_source(make_recipe(material))
    expected = stored_rows(harvested, "heldout")
    undisturbed = make_source(make_recipe(material))
    for _ in range(2):  # the same at every call
        batches = list(source.heldout(20))
        close(torch.cat(batches), expected)
        assert max(len(b) for b in batches) == 20
    assert source.next_batch().equal(undisturbed.next_batch())


def test_scaling_is_that_of_the_first_rows(material, harvested, monkeypatch):
    n = harvested.num_rows("train")
    monkeypatch.setattr(live, "FIRST_ROWS", n)
    source = make_source(make_recipe(material))
    x = stored_rows(harvested).double()
    torch.testing.assert_close(source.scaling.shift.double(), x.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(1 / source.scaling.scale.double(), x.std(0, correction=0), rtol=1e-4, atol=1e-5)
    assert source.sample(n).shape == (n, 16)
    close(source.scaling.invert(source.sample(n)), stored_rows(harvested))
    assert source.num_train_rows is None
    assert source.metadata["hook_name"] == "blocks.2.hook_resid_post"


# State


@pytest.mark.parametrize("read_ahead", [False, True])
def test_restored_at_any_batch_it_continues_to_the_bit(material, tmp_path, monkeypatch, read_ahead):
    monkeypatch.setattr(live, "LiveSource", lambda *given, **_: LiveSource(*given, read_ahead=read_ahead))
    recipe = make_recipe(material, harvest={"max_norm_ratio": 1.5})
    source = make_source(recipe)
    states, batches, documents = [], [], []
    for _ in range(24):
        states.append({name: t.clone() for name, t in source.state().items()})
        documents.append(int(source.state()["stream.document"]))
        batches.append(source.next_batch())
    assert documents != sorted(documents)  # the text ended and began again
    for cut in (0, 1, 2, *range(5, 24, 3)):
        save_tensors(tmp_path / "state.safetensors", states[cut])
        resumed = make_source(recipe)
        assert resumed.scaling.shift.equal(source.scaling.shift)
        assert resumed.scaling.scale.equal(source.scaling.scale)
        resumed.restore(load_tensors(tmp_path / "state.safetensors")[0])
        assert all(resumed.next_batch().equal(expected) for expected in batches[cut:]), cut


def test_reading_ahead_changes_no_batch(material, monkeypatch):
    recipe = make_recipe(material)
    plain = make_source(recipe)
    monkeypatch.setattr(live, "LiveSource", lambda *given, **_: LiveSource(*given, read_ahead=True))
    ahead = make_source(recipe)
    for n in range(12):
        assert ahead.next_batch().equal(plain.next_batch())
        if n == 5:  # in the middle of what it reads
            assert [x.tolist() for x in ahead.heldout(20)] == [x.tolist() for x in plain.heldout(20)]
    assert str(ahead.state()) == str(plain.state())


@pytest.mark.parametrize(
    ("training", "model", "ahead"),
    [("cpu", "cpu", False), ("cuda", "cuda:0", False), ("cuda", "cpu", True), ("cuda:0", "cuda:1", True)],
)
def test_it_reads_ahead_where_devices_differ(material, monkeypatch, training, model, ahead):
    source, given = make_source(make_recipe(material)), {}
    monkeypatch.setattr(jobs.training, "choose_device", torch.device)  # they need not be here
    monkeypatch.setattr(live, "LiveSource", lambda *_, **kwargs: given.update(kwargs) or source)
    devices = {"training": {"device": training}, "model": {**material["model"], "device": model}}
    jobs.open_source(make_recipe(material, **devices))
    assert given == {"read_ahead": ahead}


@pytest.mark.parametrize("failing", [False, True])
def test_what_is_read_ahead_ends_with_the_run(material, tmp_path, monkeypatch, failing):
    def fail(*_):
        raise SleaveError("no")

    closed = []
    monkeypatch.setattr(LiveSource, "close", lambda self: closed.append(1))
    if failing:
        monkeypatch.setattr(jobs.training, "train_run", fail)
    with pytest.raises(SleaveError, match="no") if failing else nullcontext():
        jobs.train(make_recipe(material, training={"steps": 2}), tmp_path / "run")
    assert closed


# Training


def kept(run: RunDirectory) -> dict[str, Any]:
    """What must be the same to the bit in two runs of the same settings."""
    files = {n: b for n, b in content(run.path).items() if n.endswith(".safetensors")}
    return files | {"metrics": [{k: v for k, v in m.items() if k not in ("seconds", "waiting")} for m in run.metrics()]}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, KeyboardInterrupt])
def test_training_goes_on_after_a_stop_as_if_nothing_had_been(material, tmp_path, monkeypatch, how):
    recipe = make_recipe(material, training={"steps": 9, "checkpoint_every": 4})
    (whole,) = jobs.train(recipe, tmp_path / "whole")
    next_batch = LiveSource.next_batch
    calls = []

    def stop(self, *share):
        calls.append(1)
        if len(calls) == 6:
            if how is KeyboardInterrupt:
                raise KeyboardInterrupt
            signal.raise_signal(how)
        return next_batch(self, *share)

    with monkeypatch.context() as patch:
        patch.setattr(LiveSource, "next_batch", stop)
        with pytest.raises(KeyboardInterrupt if how is KeyboardInterrupt else Interrupted):
            jobs.train(recipe, tmp_path / "stopped")
    assert not RunDirectory(tmp_path / "stopped").finished
    (resumed,) = jobs.train(recipe, tmp_path / "stopped")
    assert kept(resumed) == kept(whole)
    assert len(kept(whole)["metrics"]) == 9
    assert not Path(material["harvest"]["store"], "..", "None").exists()


def test_it_says_what_it_waits_for(material, capsys):
    make_source(make_recipe(material))
    said = capsys.readouterr().err
    assert "activations come straight from the model. It reads 150 rows (tokens) for the scaling, then 128" in said


def test_evaluation(material, harvested, tmp_path):
    (run,) = jobs.train(make_recipe(material), tmp_path / "run")
    live_results = jobs.evaluate(run)["heldout"]
    assert live_results["rows"] == harvested.num_rows("heldout")
    from_store = jobs.evaluate(run, str(harvested.path), again=True)["heldout"]
    assert live_results["raw"]["mse"] == pytest.approx(from_store["raw"]["mse"], rel=1e-4)


# What it refuses


def test_nothing_to_train_on(material):
    with pytest.raises(SleaveError, match=r"The text gives no training rows; give more"):
        make_source(make_recipe(material, harvest={"heldout_fraction": 0.999999}))


def test_nothing_held_out(material, tmp_path):
    recipe = make_recipe(material, harvest={"heldout_fraction": 0})
    (run,) = jobs.train(recipe, tmp_path / "run")
    with pytest.raises(SleaveError, match="There are no held-out rows"):
        jobs.evaluate(run)


def test_no_text(material, tmp_path):
    write_texts(tmp_path / "empty.jsonl", [" "])
    with pytest.raises(SleaveError, match="There is no text in the corpus"):
        make_source(make_recipe(material, corpus=[{"kind": "files", "paths": [str(tmp_path / "empty.jsonl")]}]))


@pytest.mark.parametrize("ratio", [None, 10])
def test_nan_activations_after_the_first_rows(material, monkeypatch, ratio):
    recipe = make_recipe(material, harvest={"max_norm_ratio": ratio})
    source = make_source(recipe)
    run = HookedModel.activations
    monkeypatch.setattr(
        HookedModel, "activations", lambda self, cs: {layer: x * float("nan") for layer, x in run(self, cs).items()}
    )
    with pytest.raises(SleaveError, match=r"Layer 2 of .* rows have NaN or infinite activations"):
        list(source.heldout(8))
    with pytest.raises(SleaveError, match=r"Layer 2 of .* rows have NaN or infinite activations"):
        source.next_batch()
