"""A store gives back what was put in, survives a kill at any moment, and says what is wrong with it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from toy_store import D_IN, HARVEST, LAYERS, MODEL, add_chunk, chunk_rows, fill, open_writer

from sleave.activations import manifest as manifest_module
from sleave.activations.scaling import Moments
from sleave.activations.store import ChunkRows, Store, StoreWriter
from sleave.base.errors import SleaveError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def everything(layer: int, split_offset: int, rows: int, chunks: int) -> torch.Tensor:
    return torch.cat([chunk_rows(rows, 2 * c + split_offset).activations[layer] for c in range(chunks)])


# What is put in comes out


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_round_trip(make_store, dtype):
    store = make_store(chunks=3, dtype=dtype)
    assert (store.layers, store.d_in, store.dtype) == (list(LAYERS), D_IN, dtype)
    assert (store.harvest, store.model, store.dropped_rows) == (HARVEST, MODEL, 3)
    for layer in LAYERS:
        train, heldout = store.layer(layer), store.layer(layer, "heldout")
        expected = everything(layer, 0, 7, 3).to(DTYPES[dtype])
        assert (len(train), len(heldout)) == (21, 9)
        assert train.boundaries == (0, 7, 14, 21)
        ids = torch.tensor([20, 0, 7, 6, 13, 14, 0])
        assert train.rows(ids).equal(expected[ids])
        assert train.rows(ids).dtype == DTYPES[dtype]
        assert torch.cat(list(train.blocks(4))).equal(expected)
        assert [len(block) for block in train.blocks(8)] == [8, 8, 5]
        assert torch.cat(list(heldout.blocks())).equal(everything(layer, 1, 3, 3).to(DTYPES[dtype]))
        moments = Moments.empty(D_IN)
        moments.update(expected)
        torch.testing.assert_close(train.moments().mean, moments.mean)
        torch.testing.assert_close(train.moments().variance, moments.variance)


def test_tokens_and_documents(make_store):
    store = make_store(chunks=2)
    tokens = store.tokens("train")
    ids = torch.tensor([8, 1])
    assert tokens.token.rows(ids).equal(torch.stack([chunk_rows(7, d).tokens[1] for d in (2, 0)]).int())
    assert tokens.document.rows(ids).tolist() == [2, 0]
    assert tokens.position.rows(ids).tolist() == [1, 1]
    assert len(store.tokens("heldout").token) == 6
    documents = list(store.documents())
    assert [d["id"] for d in documents] == ["d0", "d1", "d2", "d3"]
    assert documents[0] == {"id": "d0", "split": "train", "label": "World", "source": "ü.txt"}


def test_rows_are_copies(make_store):
    rows = make_store().layer(8)
    before = rows.rows(torch.arange(3))
    rows.rows(torch.arange(3)).zero_()
    next(iter(rows.blocks())).zero_()
    assert rows.rows(torch.arange(3)).equal(before)


@pytest.mark.parametrize("bad", [-1, 21])
def test_a_row_that_is_not_there(make_store, bad):
    with pytest.raises(IndexError):
        make_store().layer(8).rows(torch.tensor([0, bad]))


def test_a_half_without_rows_has_no_files(tmp_path):
    writer = open_writer(tmp_path)
    add_chunk(writer, train=0, heldout=3)
    add_chunk(writer, train=5, heldout=0)
    writer.write_chunk((4, 5), [], {})
    writer.finish()
    store = Store.open(tmp_path)
    assert (store.num_rows("train"), store.num_rows("heldout")) == (5, 3)
    assert len(store.layer(3)) == 5
    assert store.layer(3).moments().count == 5
    assert not (tmp_path / "chunks/00000/train").exists()
    assert not (tmp_path / "chunks/00001/heldout").exists()


def test_a_store_without_heldout_rows(tmp_path):
    writer = open_writer(tmp_path)
    add_chunk(writer, heldout=0)
    writer.finish()
    assert list(Store.open(tmp_path).layer(3, "heldout").blocks()) == []


def test_manifest(make_store):
    store = make_store(chunks=1)
    manifest = json.loads((store.path / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["complete"] is True
    assert manifest["moments"]["8"]["count"] == 7
    expected = everything(8, 0, 7, 1).double()
    assert manifest["moments"]["8"]["mean"] == pytest.approx(expected.double().mean(0).tolist())
    assert manifest["moments"]["8"]["variance"] == pytest.approx(expected.double().var(0, correction=0).tolist())
    assert set(manifest["chunks"][0]["files"]) == {
        str(p.relative_to(store.path)) for p in (store.path / "chunks").rglob("*.*")
    }


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory in use from /proc")
def test_a_gather_maps_the_store_instead_of_loading_it(tmp_path):
    rows, d_in = 60_000, 640
    big = ChunkRows(*(torch.zeros(rows) for _ in range(3)), {0: torch.ones(rows, d_in, dtype=torch.bfloat16)})
    writer = StoreWriter.open(tmp_path, HARVEST, [0], d_in, "bfloat16")
    writer.write_chunk((0, 1), [], {"train": big})
    writer.finish()
    del big
    store = Store.open(tmp_path, verify=False)

    def own_memory() -> int:
        """Bytes that are no file's: pages of a mapped file count apart, and the system takes them back at need."""
        return int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024

    store.layer(0).rows(torch.arange(10))  # starts torch's threads
    before = own_memory()
    layer = store.layer(0)
    gathered = layer.rows(torch.arange(0, rows, rows // 64))
    assert gathered.eq(1).all()
    assert own_memory() - before < 0.1 * rows * d_in * 2


# Going on after an interruption


def test_resume_continues_where_it_stopped(tmp_path):
    fill(tmp_path / "whole", 3)
    writer = open_writer(tmp_path / "cut")
    add_chunk(writer)
    writer.set_norm_limits({3: 10.0, 8: 20.5})
    writer = open_writer(tmp_path / "cut")
    assert (writer.next_document, writer.rows("train"), writer.rows("heldout"), writer.complete) == (2, 7, 3, False)
    assert writer.norm_limits == {3: 10.0, 8: 20.5}
    fill(tmp_path / "cut", 3)
    store = Store.open(tmp_path / "cut")
    assert store.norm_limits == {3: 10.0, 8: 20.5}
    assert store.chunks == Store.open(tmp_path / "whole").chunks
    assert open_writer(tmp_path / "cut").complete


def test_a_kill_at_any_moment_leaves_a_store_that_can_be_resumed(tmp_path, monkeypatch):
    """The folder is copied around every step that touches the disk: each copy is what a kill there would leave."""
    live, copies = tmp_path / "live", []

    def snapshot_around(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def step(*args, **kwargs):
            for act in (lambda: None, lambda: original(*args, **kwargs)):
                result = act()
                copies.append(tmp_path / f"copy{len(copies)}")
                shutil.copytree(live, copies[-1])
            return result

        monkeypatch.setattr(owner, name, step)

    snapshot_around(os, "fsync")
    snapshot_around(Path, "replace")
    snapshot_around(Path, "rename")
    fill(live, 2)
    monkeypatch.undo()

    assert len(copies) > 60
    whole = (live / "manifest.json").read_text()
    for copy in copies:
        fill(copy, 2)
        assert (copy / "manifest.json").read_text() == whole
        assert files(copy) == files(live)
        Store.open(copy)


def files(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*"))


def harm(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[:-1])
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


HARMS = {"missing": "is missing", "truncated": r"has \d+ bytes instead of \d+", "altered": "was altered: its SHA-256"}
FILES = ["documents.jsonl", "train/tokens.safetensors", "train/layer_08.safetensors", "heldout/layer_03.safetensors"]


@pytest.mark.parametrize("how", list(HARMS))
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file_is_named_and_the_same_command_mends_it(make_store, capsys, file, how):
    store = make_store(chunks=3)
    whole = (store.path / "manifest.json").read_text()
    first = (store.path / "chunks/00000/train/layer_03.safetensors").stat().st_mtime_ns
    harm(store.path / "chunks/00001" / file, how)
    with pytest.raises(SleaveError, match=rf"00001/{file}` {HARMS[how]}.*Run the same `sleave harvest` command again"):
        Store.open(store.path)

    writer = open_writer(store.path)
    assert re.search(rf"00001/{file}` {HARMS[how]}.*Chunk 1 and the 1 after it", capsys.readouterr().err)
    assert (writer.next_document, writer.complete) == (2, False)
    with pytest.raises(SleaveError, match=r"unfinished \(1 chunks\). Run the same `sleave harvest`"):
        Store.open(store.path)
    fill(store.path, 3)
    assert (store.path / "manifest.json").read_text() == whole
    assert (store.path / "chunks/00000/train/layer_03.safetensors").stat().st_mtime_ns == first


def test_verification_can_be_left_out(make_store):
    store = make_store()
    harm(store.path / "chunks/00001/train/layer_08.safetensors", "altered")
    Store.open(store.path, verify=False)


def test_long_verification_shows_progress(make_store, monkeypatch, capsys):
    store = make_store()
    monkeypatch.setattr(manifest_module, "SHOW_PROGRESS_ABOVE", 0)
    Store.open(store.path)
    assert "Checking" in capsys.readouterr().err


# What it refuses


def test_another_harvest_is_refused_key_by_key(make_store):
    path = make_store().path
    other = {"model": {"name": "toy", "revision": "xyz"}, "filter": 2.5}
    with pytest.raises(SleaveError, match="another harvest") as error:
        open_writer(path, harvest=other, dtype="bfloat16")
    lines = str(error.value).splitlines()
    assert lines[1:] == [
        "  `context_length`: there 4, now '(not set)'",
        "  `filter`: there '(not set)', now 2.5",
        "  `model.revision`: there 'abc', now 'xyz'",
        "  `store.dtype`: there 'float32', now 'bfloat16'",
        "Choose another folder, or delete this one.",
    ]


def test_harvest_is_compared_as_json(make_store):
    path = make_store(harvest={"parts": (1, 2)}).path
    assert open_writer(path, harvest={"parts": [1, 2]}).complete


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(SleaveError, match="is not empty and not an activation store"):
        open_writer(tmp_path)
    assert files(tmp_path) == ["thesis.tex"]


def test_no_store(tmp_path):
    with pytest.raises(SleaveError, match=r"no such folder. Make one with `sleave harvest`"):
        Store.open(tmp_path / "nowhere")
    with pytest.raises(SleaveError, match=r"it has no manifest.json. Make one with `sleave harvest`"):
        Store.open(tmp_path)


def test_a_truncated_manifest(make_store):
    manifest = make_store().path / "manifest.json"
    manifest.write_text(manifest.read_text()[:100])
    for opening in (Store.open, open_writer):
        with pytest.raises(SleaveError, match=r"(?s)manifest.json` is not valid JSON.*Delete .* run `sleave harvest`"):
            opening(manifest.parent)


def test_a_manifest_of_another_version(make_store):
    manifest = make_store().path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(SleaveError, match=r"(?s)`format` \(= 2\).*Delete"):
        Store.open(manifest.parent)


def test_a_layer_that_is_not_there(make_store):
    with pytest.raises(SleaveError, match=r"`layer` \(= 5\) is not in .* Layers there: 3, 8. Choose one of them"):
        make_store().layer(5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_activations_that_are_not_finite(tmp_path, bad):
    writer = open_writer(tmp_path)
    add_chunk(writer)
    rows = chunk_rows(7, 2)
    rows.activations[8][[1, 4], 2] = bad
    with pytest.raises(SleaveError, match=r"Layer 8: 2 of 7 rows have NaN or infinite.*float32 or bfloat16"):
        writer.write_chunk((2, 3), [], {"train": rows})
    unharmed(tmp_path)


def test_activations_too_large_for_float16(tmp_path):
    writer = open_writer(tmp_path, dtype="float16")
    add_chunk(writer)
    rows = chunk_rows(7, 2)
    rows.activations[8][1, 2] = -123456
    with pytest.raises(SleaveError, match=r"Layer 8: the largest activation \(123456\).*'float16'.*Store bfloat16"):
        writer.write_chunk((2, 3), [], {"heldout": rows})
    unharmed(tmp_path, dtype="float16")


@pytest.mark.parametrize("after", range(8))  # 7 files and the manifest
def test_a_full_disk_leaves_the_store_as_it_was(tmp_path, monkeypatch, after):
    writer = open_writer(tmp_path)
    add_chunk(writer)
    left = iter(range(after))
    original = os.fsync

    def fsync(handle: int) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SleaveError, match="The disk is full"):
        add_chunk(writer)
    monkeypatch.undo()
    unharmed(tmp_path)
    add_chunk(writer)  # space was freed
    assert writer.next_document == 4


def unharmed(path: Path, **changes: object) -> None:
    """The store has its first chunk, and no trace of the second."""
    assert [p.name for p in (path / "chunks").iterdir()] == ["00000"]
    writer = open_writer(path, **changes)
    assert (writer.next_document, writer.rows("train")) == (2, 7)
