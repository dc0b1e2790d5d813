"""Files that are either whole or not there: write beside the target, flush, rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sleave.base.errors import SleaveError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the target's folder; it becomes `path` only when the block ends without an error.

    Raises:
        SleaveError: the disk is full, or the folder cannot be written. The former content of `path` is untouched.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        with explained_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            name = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            name.touch(exist_ok=False)  # as the umask has it, which cannot be asked for without setting it
            temporary, mode = name, stat.S_IMODE(name.stat().st_mode)
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            if stat.S_IMODE(temporary.stat().st_mode) != mode:  # safetensors puts a file of its own in its place
                temporary.chmod(mode)
            temporary.replace(path)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def exclusive(folder: Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder (made if it is not there) for this process alone while the block runs; a kill lets it go.

    Args:
        folder: which.
        wait: until no other process holds it.

    Raises:
        SleaveError: another process holds it, and this one shall not wait; or it cannot be made.
    """
    with explained_disk_errors(folder / "*"):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise SleaveError(
                f"Another sleave is at work in `{folder}`. Wait until it is done, or choose another folder."
            ) from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def explained_disk_errors(path: Path) -> Iterator[None]:
    """Within the block, a failure to write `path` that the user can mend becomes a SleaveError that says how."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if (message := _disk_message(path, error)) is None:
            raise
        raise SleaveError(message) from error


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that processes killed within `atomic_path` left in a folder."""
    for pattern in (".*.tmp", ".tmp*"):  # the second: safetensors writes through temporary files of its own
        for leftover in folder.glob(pattern):
            leftover.unlink(missing_ok=True)


def _disk_message(path: Path, error: Exception) -> str | None:
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error) or "os error 28" in str(error):
        return (
            f"The disk is full: `{path}` could not be written; what it held before is kept. "
            "Free some space and run the same command again; finished work is kept."
        )
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"`{path}` cannot be written ({error}). Choose a folder that you may write to."
    if code in (errno.ENOTDIR, errno.EEXIST):
        return f"`{path.parent}` is not a folder ({error}). Choose another place, or move that file away."
    return None


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically (see `atomic_path`)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, with a newline at the end; NaN is refused, since it is not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        SleaveError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SleaveError(f"`{path}` does not exist.") from error
    except (ValueError, RecursionError) as error:
        raise SleaveError(f"`{path}` is not valid JSON ({str(error)[:200]}); it was truncated or altered.") from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        SleaveError: the file is missing or is not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SleaveError(f"`{path}` does not exist.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SleaveError(f"`{path}` is not valid TOML: {error}.") from error


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, outdates: Path | None = None
) -> None:
    """Write a safetensors file atomically; tensors are made contiguous and moved to the CPU.

    Args:
        path: the file.
        tensors: by name.
        metadata: kept in it.
        outdates: a file that must never stand beside the new one; removed before it takes its place.
    """
    ready = {name: t.detach().to("cpu").contiguous() for name, t in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(ready, temporary, metadata=dict(metadata) if metadata else None)
        if outdates is not None:
            outdates.unlink(missing_ok=True)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a whole safetensors file: its tensors and its metadata.

    Raises:
        SleaveError: the file is missing, truncated or not safetensors.
    """
    path = Path(path)
    if not path.is_file():
        raise SleaveError(f"`{path}` does not exist.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise SleaveError(f"`{path}` cannot be read ({error}); it was truncated or altered.") from error


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with Path(path).open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits that tell JSON values apart."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def torch_dtype(name: str) -> torch.dtype:
    """The torch dtype of one of the three names that settings use."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a torch dtype in settings and files."""
    return str(dtype).removeprefix("torch.")
