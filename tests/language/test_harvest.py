"""Harvested rows are the model's own, in order, once each, and the same however often the harvest was stopped."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from small import content, make_material, small_recipe, write_recipe, write_texts
from tiny import make_tiny_model

from sleave import jobs
from sleave.activations import store as store_module
from sleave.activations.store import Store, StoreWriter
from sleave.base import device, files
from sleave.base.errors import SleaveError
from sleave.language import harvest as harvest_module
from sleave.language.contexts import contexts, is_heldout
from sleave.language.corpora import Document, matching, read_corpora
from sleave.language.model import HookedModel
from sleave.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return make_material(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def finished(material, tmp_path_factory) -> Store:
    """A whole harvest; tests that harm it take a copy."""
    path = tmp_path_factory.mktemp("finished") / "store"
    return jobs.harvest(small_recipe(material, harvest={"store": str(path)}))


@pytest.fixture
def recipe(material, tmp_path) -> Recipe:
    return small_recipe(material, harvest={"store": str(tmp_path / "store")})


@pytest.fixture
def copied(finished, recipe) -> Path:
    """A copy of the finished store, where the recipe has it."""
    return Path(shutil.copytree(finished.path, recipe.harvest.store))


@pytest.fixture
def no_model(monkeypatch):
    def load(_settings):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(HookedModel, "load", load)


def numbered(recipe: Recipe) -> list[tuple[int, Document]]:
    return list(enumerate(read_corpora(recipe.corpus, recipe.seed)))


def expected_rows(recipe: Recipe, split: str) -> tuple[dict[int, torch.Tensor], list[tuple[int, int, int]]]:
    """Rows of every context run alone, and the (token, document, position) of each."""
    model = HookedModel.load(recipe.model)
    rows: dict[int, list[torch.Tensor]] = {layer: [] for layer in recipe.model.layers}
    origin = []
    for number, document in numbered(recipe):
        if is_heldout(document, recipe.harvest.heldout_fraction, recipe.seed) != (split == "heldout"):
            continue
        for context in contexts([(number, document)], model.tokenizer, recipe.harvest):
            for layer, x in model.activations([context]).items():
                rows[layer].append(x)
            kept = zip(context.token_ids, context.keep, strict=True)
            origin += [(token, number, at) for at, (token, keep) in enumerate(kept) if keep]
    return {layer: torch.cat(parts) for layer, parts in rows.items()}, origin


def interrupt(monkeypatch, at: int, error: BaseException | type[BaseException] = KeyboardInterrupt) -> list[int]:
    """Make the model fail in its n-th batch; returns the list that counts batches."""
    batches: list[int] = []
    run = HookedModel.activations

    def activations(self, contexts):
        batches.append(len(contexts))
        if len(batches) == at:
            raise error
        return run(self, contexts)

    monkeypatch.setattr(HookedModel, "activations", activations)
    return batches


# Which rows


@pytest.mark.parametrize("split", ["train", "heldout"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 0.03)])
def test_rows_are_those_of_each_context_run_alone(material, tmp_path, split, dtype, tolerance):
    recipe = small_recipe(material, model={"dtype": dtype}, harvest={"store": str(tmp_path / "store"), "dtype": dtype})
    store = jobs.harvest(recipe)
    rows, origin = expected_rows(recipe, split)
    assert store.layers == [0, 2]
    assert len(store.chunks) > 2
    assert store.num_rows(split) == len(origin) > 50
    columns = (torch.cat(list(c.blocks())).tolist() for c in vars(store.tokens(split)).values())
    assert list(zip(*columns, strict=True)) == origin
    for layer, expected in rows.items():
        found = torch.cat(list(store.layer(layer, split).blocks()))
        assert found.dtype == expected.dtype == files.torch_dtype(dtype)
        error = (found.float() - expected.float()).norm(dim=1) / expected.float().norm(dim=1)
        assert float(error.max()) < tolerance


def test_no_special_token_is_kept(finished):
    tokens = torch.cat(list(finished.tokens("train").token.blocks()))
    positions = torch.cat(list(finished.tokens("train").position.blocks()))
    assert not torch.isin(tokens, torch.tensor([0, 1, 2])).any()  # <pad>, <bos>, <eos>
    assert int(positions.min()) == 1  # 0 is <bos>
    assert int(positions.max()) == 7


def test_the_text_without_a_beginning_token(tmp_path, material):
    folder = make_tiny_model(tmp_path / "qwen", "qwen2")
    store = jobs.harvest(small_recipe(material, model={"name": str(folder)}, harvest={"store": str(tmp_path / "s")}))
    positions = torch.cat(list(store.tokens("train").position.blocks()))
    assert int(positions.min()) == 0
    assert store.model["prepend_bos"] is False


def test_one_pass_serves_all_layers(material, tmp_path, monkeypatch):
    passes = {}
    for layers in ([0], [0, 1, 2]):
        calls = []
        hooked = HookedModel.load

        def load(settings, calls=calls, hooked=hooked):
            model = hooked(settings)
            model._model.register_forward_hook(lambda *_: calls.append(1))
            return model

        monkeypatch.setattr(HookedModel, "load", load)
        jobs.harvest(
            small_recipe(material, model={"layers": layers}, harvest={"store": str(tmp_path / str(len(layers)))})
        )
        monkeypatch.setattr(HookedModel, "load", hooked)
        passes[len(layers)] = len(calls)
    assert passes[3] == passes[1] > 0


def test_the_split_is_by_document(finished, recipe):
    records = list(finished.documents())
    documents = dict(numbered(recipe))
    assert [r["id"] for r in records] == sorted(documents)
    for record in records:
        document = documents[record["id"]]
        assert record["split"] == ("heldout" if is_heldout(document, 0.25, 0) else "train")
        assert record["label"] == document.text[:1] == document.label
        assert record["source"].endswith("news.jsonl")
    sides = {}
    for record in records:
        sides.setdefault(documents[record["id"]].text, []).append(record["split"])
    repeated = [s for s in sides.values() if len(s) > 1]
    assert [len(set(s)) for s in repeated] == [1]
    for split in ("train", "heldout"):
        there = set(torch.cat(list(finished.tokens(split).document.blocks())).tolist())
        assert there == {r["id"] for r in records if r["split"] == split}


@pytest.mark.parametrize("max_tokens", [1, 40, 151])
def test_max_tokens_is_kept_to_within_a_document(recipe, finished, max_tokens):
    store = jobs.harvest(small_recipe(recipe.to_dict(), harvest={"max_tokens": max_tokens, "heldout_fraction": 0}))
    documents = torch.cat(list(store.tokens("train").document.blocks()))
    last = int((documents == documents[-1]).sum())
    assert max_tokens <= store.num_rows("train") < max_tokens + last


def plant(folder: Path, token: int, factor: float) -> None:
    """Make one token's activations massive (or NaN) at every layer."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight[token] *= factor
    model.save_pretrained(folder)


@pytest.fixture
def planted(tmp_path):
    """Material whose model has one massive token, and that token."""
    values = make_material(tmp_path)
    recipe = small_recipe(values)
    tokens = torch.tensor([o[0] for o in expected_rows(recipe, "train")[1]])
    return values, int(tokens.mode().values)


def test_exactly_the_massive_rows_are_left_out_and_counted(planted):
    values, token = planted
    plain = {split: expected_rows(small_recipe(values), split)[1] for split in ("train", "heldout")}
    plant(Path(values["model"]["name"]), token, 1000)
    store = jobs.harvest(small_recipe(values, harvest={"max_norm_ratio": 10}))
    massive = sum(o[0] == token for origin in plain.values() for o in origin)
    assert massive > 5
    assert store.dropped_rows == massive
    for split, origin in plain.items():
        columns = (torch.cat(list(c.blocks())).tolist() for c in vars(store.tokens(split)).values())
        assert list(zip(*columns, strict=True)) == [o for o in origin if o[0] != token]
    assert store.norm_limits is not None
    for layer, limit in store.norm_limits.items():
        norms = torch.cat(list(store.layer(layer).blocks())).norm(dim=1)
        assert float(norms.max()) <= limit
        assert limit == pytest.approx(10 * float(norms.median()), rel=0.3)


def test_moments_are_those_of_the_training_rows(finished):
    for layer in finished.layers:
        x = torch.cat(list(finished.layer(layer).blocks())).double().numpy()
        moments = finished.layer(layer).moments()
        assert moments.count == len(x)
        np.testing.assert_allclose(moments.mean.numpy(), x.mean(0), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(moments.variance.numpy(), x.var(0), rtol=1e-12)


# Again, and with other settings


def test_a_finished_harvest_is_reused_without_the_model(recipe, copied, no_model, capsys):
    before = content(copied)
    assert jobs.harvest(recipe).num_rows("train") > 0
    assert capsys.readouterr().err.startswith(f"Reusing the activations in {copied}: ")
    assert content(copied) == before


def test_where_and_in_what_batches_it_runs_does_not_matter_nor_the_runs_seed(recipe, copied, no_model):
    jobs.harvest(small_recipe(recipe.to_dict(), seed=7))
    jobs.harvest(small_recipe(recipe.to_dict(), model={"device": "auto"}, harvest={"batch_tokens": 32}))


def test_edited_text_is_not_taken_for_what_was_harvested(recipe, copied, no_model):
    text = next(path for pattern in recipe.corpus[0].paths for path in matching(pattern))
    before = text.stat()
    try:
        os.utime(text, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        with pytest.raises(SleaveError, match=r"another harvest:\n  `files\..*`: there '\d+ bytes"):
            jobs.harvest(recipe)
    finally:
        os.utime(text, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"harvest": {"context_length": 9}}, "`harvest.context_length`: there 8, now 9"),
        ({"model": {"layers": [0, 1, 2]}}, r"`model.layers`: there \[0, 2\], now \[0, 1, 2\]"),
        ({"model": {"name": "elsewhere"}}, "`model.name`: there '.*', now 'elsewhere'"),
        ({"harvest": {"seed": 1}}, "`harvest.seed`: there 0, now 1"),
        ({"harvest": {"dtype": "bfloat16"}}, "`harvest.dtype`: there 'float32', now 'bfloat16'"),
        ({"corpus": [{"kind": "packaged", "name": "news"}]}, "`corpus`: there .*jsonl.*, now .*packaged"),
    ],
)
def test_another_harvest_is_refused_before_the_model_is_loaded(recipe, copied, no_model, overrides, line):
    before = content(copied)
    with pytest.raises(SleaveError, match=rf"another harvest:\n(.*\n)*  {line}(.*\n)+Choose another folder, or del"):
        jobs.harvest(small_recipe(recipe.to_dict(), **overrides))
    assert content(copied) == before


def test_no_store_named(recipe):
    with pytest.raises(SleaveError, match=r"`harvest.store` names no folder. Give one, such as --harvest.store"):
        jobs.harvest(small_recipe(recipe.to_dict(), harvest={"store": None}))


# Stopped and harmed


@pytest.mark.parametrize("at", [1, 4, 9, 13])
def test_stopped_in_any_batch_it_ends_the_same(recipe, finished, monkeypatch, at):
    with monkeypatch.context() as patch:
        batches = interrupt(patch, at)
        with pytest.raises(KeyboardInterrupt):
            jobs.harvest(recipe)
        assert len(batches) == at
    path = Path(recipe.harvest.store)
    with pytest.raises(SleaveError, match="is unfinished"):
        Store.open(path)
    batches = interrupt(monkeypatch, at=-1)
    jobs.harvest(recipe)
    assert content(path) == content(finished.path)
    if at == 13:  # what was finished is not made again
        assert len(batches) < len(finished.chunks) * 4


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_the_same(material, tmp_path):
    values = material | {"harvest": material["harvest"] | {"chunk_tokens": 12, "batch_tokens": 8}}
    whole = jobs.harvest(small_recipe(values, harvest={"store": str(tmp_path / "whole")}))
    recipe = write_recipe(tmp_path / "r.toml", values, harvest={"store": str(tmp_path / "killed")})
    command = [sys.executable, "-m", "sleave", "harvest", str(recipe)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    draw = random.Random(1)
    manifest = tmp_path / "killed" / "manifest.json"
    chunks_after_kill = []
    for kills in range(3):
        child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = manifest.read_bytes() if manifest.is_file() else b""
        while (manifest.read_bytes() if manifest.is_file() else b"") == before:
            assert child.poll() is None, f"it ended before kill {kills}"
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        chunks_after_kill.append(len(list((tmp_path / "killed" / "chunks").glob("0*"))))
    assert 0 < chunks_after_kill[-1] < len(whole.chunks)
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert content(tmp_path / "killed") == content(whole.path)


@pytest.mark.parametrize("harm", ["truncated", "deleted", "altered"])
def test_a_harmed_chunk_is_named_and_made_again(recipe, finished, copied, capsys, harm):
    file = copied / "chunks/00001/train/layer_02.safetensors"
    if harm == "deleted":
        file.unlink()
    else:
        whole = file.read_bytes()
        file.write_bytes(whole[:-100] if harm == "truncated" else whole[:-4] + b"\x00\x00\xc0\x7f")
    (run,) = jobs.train(small_recipe(recipe.to_dict(), layer=2, training={"steps": 1}), copied.parent / "run")
    assert run.finished
    said = capsys.readouterr().err
    what = {"deleted": "is missing.", "truncated": "was truncated", "altered": "was altered"}[harm]
    assert f"`{file}`" in said
    assert what in said
    assert f"Chunk 1 and the {len(finished.chunks) - 2} after it will be made again." in said
    assert content(copied) == content(finished.path)


def test_a_model_with_nan_weights(planted):
    values, token = planted
    plant(Path(values["model"]["name"]), token, float("nan"))
    for ratio in (None, 10):  # NaN rows must not pass for massive ones
        with pytest.raises(SleaveError, match=r"Layer 0 of .*: \d+ of \d+ rows have NaN.* check that its weights"):
            jobs.harvest(small_recipe(values, harvest={"max_norm_ratio": ratio}))
        assert list(Path(values["harvest"]["store"]).rglob("*.safetensors")) == []
    make_tiny_model(Path(values["model"]["name"]))
    jobs.harvest(small_recipe(values))  # a store without a chunk stands in nobody's way


def test_a_full_disk(recipe, finished, monkeypatch):
    written = 0

    def save_file(tensors, path, metadata=None):
        nonlocal written
        written += 1
        if written == 8:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        safetensors.torch.save_file(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", save_file)
        with pytest.raises(SleaveError, match=r"The disk is full: `.*` could not be written.*same command again"):
            jobs.harvest(recipe)
    path = Path(recipe.harvest.store)
    assert [p.name for p in sorted((path / "chunks").iterdir())] == ["00000"]
    jobs.harvest(recipe)
    assert content(path) == content(finished.path)


def test_when_a_write_that_fails_is_told(tmp_path, monkeypatch):
    """After the next batch; at the end, of the last chunk; and not if something else went wrong meanwhile."""
    writer = StoreWriter.open(tmp_path / "store", {}, [0], 3, "float32")
    done = []

    def write(*_):
        raise SleaveError("The disk is full")

    def harvested(meanwhile):
        with harvest_module._Writing() as writing:
            writing.begin([], {}, torch.ones(0), writer)
            writing._thread.submit(lambda: None).result()  # it has failed by now
            meanwhile(writing)
            done.append("the end")

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(harvest_module, "_write", write)
    with pytest.raises(SleaveError, match="The disk is full"):
        harvested(lambda writing: writing.watched(done.append)(5))
    assert done == [5]
    with pytest.raises(SleaveError, match="The disk is full"):
        harvested(lambda _: None)
    assert done == [5, "the end"]
    with pytest.raises(KeyboardInterrupt):
        harvested(interrupted)


def test_auto_is_the_number_format_of_the_store_that_is_there(material, tmp_path, monkeypatch):
    monkeypatch.setattr(device, "has_bfloat16", lambda _: True)
    recipe = small_recipe(material, model={"dtype": "auto"}, harvest={"store": str(tmp_path / "store")})
    store = jobs.harvest(recipe)
    assert store.harvest["model"]["dtype"] == "bfloat16"
    before = content(store.path)
    monkeypatch.setattr(device, "has_bfloat16", lambda _: False)
    jobs.harvest(recipe)  # on another machine
    assert content(store.path) == before
    elsewhere = recipe.model_copy(update={"harvest": recipe.harvest.model_copy(update={"store": str(tmp_path / "b")})})
    assert jobs.harvest(elsewhere).harvest["model"]["dtype"] == "float32"


def test_a_write_that_fails_in_the_manifest(recipe, finished, monkeypatch):
    def write_json(path, value):
        if len(value["chunks"]) == 2:
            raise SleaveError("The disk is full")
        files.write_json(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_json", write_json)
        with pytest.raises(SleaveError, match="The disk is full"):
            jobs.harvest(recipe)
    jobs.harvest(recipe)
    assert content(Path(recipe.harvest.store)) == content(finished.path)


# Little text


@pytest.mark.parametrize("texts", [[], ["  ", "\n"]])
def test_no_text(material, tmp_path, texts):
    write_texts(tmp_path / "empty.jsonl", texts)
    corpus = [{"kind": "files", "paths": [str(tmp_path / "empty.jsonl")]}]
    with pytest.raises(SleaveError, match=r"There is no text in the corpus .*empty.jsonl"):
        jobs.harvest(small_recipe(material, corpus=corpus, harvest={"store": str(tmp_path / "store")}))


@pytest.mark.parametrize(
    ("settings", "split"),
    [
        ({"heldout_fraction": 0.999999}, "train"),
        ({"heldout_fraction": 1e-9}, "heldout"),
        ({"min_tokens": 8}, "train"),
        ({"min_tokens": 8, "max_norm_ratio": 10}, "train"),
    ],
)
def test_no_rows_on_one_side(recipe, settings, split):
    path = recipe.harvest.store
    with pytest.raises(SleaveError, match=rf"No {split} rows came out of 40 documents. Delete `{path}`, and give more"):
        jobs.harvest(small_recipe(recipe.to_dict(), harvest=settings))
    with pytest.raises(SleaveError, match="is unfinished"):
        Store.open(Path(path))


def test_nothing_held_out(recipe):
    store = jobs.harvest(small_recipe(recipe.to_dict(), harvest={"heldout_fraction": 0}))
    assert store.num_rows("heldout") == 0
    assert store.num_rows("train") == sum(
        1 for _ in expected_rows(recipe, "train")[1] + expected_rows(recipe, "heldout")[1]
    )
    assert len(store.layer(0, "heldout")) == 0


# What the user sees


@pytest.mark.parametrize("changes", [{}, {"max_tokens": 250}, {"max_norm_ratio": 1.2}])
def test_progress_goes_steadily_to_100_percent(recipe, monkeypatch, changes):
    shares: list[float] = []

    @contextmanager
    def bar(_title, total, _unit, done):
        shares.append(done)
        yield lambda amount, _note: shares.append(shares[-1] + amount)
        assert total == 100

    monkeypatch.setattr(harvest_module, "progress", bar)
    jobs.harvest(small_recipe(recipe.to_dict(), harvest=changes))
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(100)
    assert shares == sorted(shares)
    assert shares[len(shares) // 2] == pytest.approx(50, abs=25)
