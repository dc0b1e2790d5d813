"""Files are whole or not there, and what is wrong with one is said."""

import errno
import os
import stat

import pytest
import torch
from safetensors import SafetensorError

from sleave.base.errors import SleaveError
from sleave.base.files import (
    atomic_path,
    exclusive,
    explained_disk_errors,
    load_tensors,
    read_json,
    read_toml,
    remove_leftovers,
    save_tensors,
    sha256,
    write_json,
    write_text,
)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_the_target_changes_only_in_the_end(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    with atomic_path(path) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two"
    assert names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt(), OSError(errno.EIO, "x")])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with atomic_path(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Quota exceeded"),
    SafetensorError('Error while serializing: I/O error: Os { code: 28, message: "No space left on device" }'),
    SafetensorError("I/O error: (os error 28)"),
]


@pytest.mark.parametrize("error", FULL)
def test_full_disk(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write():
        with atomic_path(path):
            raise error

    with pytest.raises(SleaveError, match=r"disk is full: `.*a\.txt` could not be written; what it held before is kep"):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_other_errors_are_not_explained_away(tmp_path):
    def fail():
        with explained_disk_errors(tmp_path):
            raise SafetensorError("metadata is incomplete")

    with pytest.raises(SafetensorError, match="incomplete"):
        fail()


def test_folder_that_may_not_be_written(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.touch", refuse)
    with pytest.raises(SleaveError, match=r"cannot be written \(.*Permission denied\)\. Choose a folder"):
        write_text(tmp_path / "a", "x")


def test_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "a").write_text("x")
    with pytest.raises(SleaveError, match=r"`.*a` is not a folder"):
        write_text(tmp_path / "a" / "b", "x")


@pytest.mark.skipif(os.name == "nt", reason="no umask")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a", "x")
        save_tensors(tmp_path / "b", {"x": torch.ones(3)})
        assert os.umask(mask) == mask  # as it was
    finally:
        os.umask(before)
    for name in "ab":
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~mask


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    for name in (".a.txt.x1.tmp", ".tmpmJtw1M", "a.txt", ".hidden", "b.tmp"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", "a.txt", "b.tmp"]
    remove_leftovers(tmp_path / "nowhere")


def test_tensors_come_back(tmp_path):
    tensors = {"a": torch.randn(3, 4).T, "n": torch.tensor(7), "none": torch.empty(0, 5)}
    save_tensors(tmp_path / "t", tensors, {"k": "ü"})
    read, metadata = load_tensors(tmp_path / "t")
    assert metadata == {"k": "ü"}
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[n], tensors[n]) for n in tensors)
    save_tensors(tmp_path / "t", {"a": tensors["a"].requires_grad_()})
    assert load_tensors(tmp_path / "t")[1] == {}


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.99])
def test_truncated_tensors(tmp_path, share):
    save_tensors(tmp_path / "t", {"a": torch.zeros(50)})
    content = (tmp_path / "t").read_bytes()
    (tmp_path / "t").write_bytes(content[: int(share * len(content))])
    with pytest.raises(SleaveError, match=r"`.*t` cannot be read .*truncated or altered"):
        load_tensors(tmp_path / "t")


@pytest.mark.parametrize("read", [load_tensors, read_json, read_toml])
def test_missing(tmp_path, read):
    with pytest.raises(SleaveError, match=r"`.*nothing` does not exist"):
        read(tmp_path / "nothing")


def test_json(tmp_path):
    write_json(tmp_path / "j", {"b": [1, None], "a": "ü"})
    assert (tmp_path / "j").read_text(encoding="utf-8") == ('{\n  "b": [\n    1,\n    null\n  ],\n  "a": "ü"\n}\n')
    assert read_json(tmp_path / "j") == {"b": [1, None], "a": "ü"}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "j", float("nan"))
    assert read_json(tmp_path / "j")["a"] == "ü"


@pytest.mark.parametrize("content", [b'{"a": ', b"", b"\xff\xfe"])
def test_not_json(tmp_path, content):
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(SleaveError, match=r"`.*j` is not valid JSON .*truncated or altered"):
        read_json(tmp_path / "j")


@pytest.mark.parametrize(("content", "where"), [(b"a = [1,\nb = 2\n", "line 2"), (b"a = \xff", "utf-8")])
def test_not_toml(tmp_path, content, where):
    (tmp_path / "r.toml").write_bytes(content)
    with pytest.raises(SleaveError, match=rf"`.*r\.toml` is not valid TOML: .*{where}"):
        read_toml(tmp_path / "r.toml")


def test_toml(tmp_path):
    (tmp_path / "r.toml").write_text("seed = 1\n[a]\nb = 'ü'\n", encoding="utf-8")
    assert read_toml(tmp_path / "r.toml") == {"seed": 1, "a": {"b": "ü"}}


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_folder_is_held_by_one_at_a_time(tmp_path):
    folder = tmp_path / "deep" / "run"
    with exclusive(folder):
        assert list(folder.iterdir()) == []
        with pytest.raises(SleaveError, match="Another sleave is at work"), exclusive(folder):
            pass
        with pytest.raises(SleaveError, match="Another sleave is at work"), exclusive(folder):
            pass
    with exclusive(folder):
        pass


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(SleaveError, match="is not a folder"), exclusive(tmp_path / "run"):
        pass
