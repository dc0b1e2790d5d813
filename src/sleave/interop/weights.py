"""What another library left: its tensors checked, put into an autoencoder, completed from a sample where it is open.

Each format's module has a pure function `autoencoder` of settings and weights, which files and live objects share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from sleave.autoencoder.jumprelu import JumpReLUAutoencoder
from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.errors import SampleNeeded, SleaveError
from sleave.base.files import read_json
from sleave.base.progress import say
from sleave.codes.largest import largest_of_batch

Architecture = TypeVar("Architecture", bound=SparseAutoencoder)
Shape = tuple[int, ...]
GIVE = (
    "Give raw activations of the model and layer that it was trained on, a tensor (rows, d_in) of some thousands of "
    "rows, as `sample`: sleave.load(path, sample=x)."
)


def read_settings(path: Path) -> dict[str, Any]:
    """The JSON object that a library keeps beside its weights.

    Raises:
        SleaveError: the file is missing, or holds something else.
    """
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise SleaveError(f"`{path}` holds a {type(settings).__name__}, no settings; another program wrote it.")
    return settings


def section(settings: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """A part of the settings that is itself settings; empty if it is not there.

    Raises:
        SleaveError: it is something else.
    """
    part = settings.get(key) or {}
    if not isinstance(part, dict):
        raise SleaveError(f"{where} has {key} = {part!r}, where settings belong; another program wrote it.")
    return part


@dataclass(frozen=True)
class Weights:
    """An autoencoder's tensors by the names that another library has for them.

    Attributes:
        tensors: of any floating-point precision.
        where: what holds them, for messages.
    """

    tensors: Mapping[str, Tensor]
    where: str

    def matrix_shape(self, name: str) -> tuple[int, int]:
        """Rows and columns of a matrix.

        Raises:
            SleaveError: it is not there, or is no matrix.
        """
        if name not in self.tensors:
            raise SleaveError(f"{self.where} has no {name}; it holds {', '.join(sorted(self.tensors)) or 'nothing'}.")
        shape = self.tensors[name].shape
        if len(shape) != 2:
            raise SleaveError(f"{self.where}: {name} has shape {tuple(shape)}; it must be a matrix.")
        return shape[0], shape[1]

    def checked(self, shapes: Mapping[str, Shape | None], said: str = "") -> dict[str, Tensor]:
        """All tensors in float32, after checking that they are those expected, and finite.

        Args:
            shapes: by name; None for one that may have any.
            said: where the expected shapes come from, for messages.

        Raises:
            SleaveError: one is missing, there is another, a shape is wrong, or there are NaN or infinite values.
        """
        missing, other = [n for n in shapes if n not in self.tensors], [n for n in self.tensors if n not in shapes]
        if missing or other:
            raise SleaveError(
                f"{self.where} must hold {', '.join(sorted(shapes))}."
                + f" It lacks {', '.join(sorted(missing))}." * bool(missing)
                + f" It also has {', '.join(sorted(other))}." * bool(other)
                + " It is not what it says it is, or of a kind that sleave does not read."
            )
        for name in shapes:
            tensor = self.tensors[name]
            if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_complex():
                raise SleaveError(f"{self.where}: {name} must be a dense tensor of real numbers that is there in full.")
        for name, shape in shapes.items():
            given = tuple(self.tensors[name].shape)
            if shape is not None and given != shape:
                raise SleaveError(f"{self.where} does not fit{said}: {name} has shape {given}; it should be {shape}.")
        values = {name: self.tensors[name].detach().cpu().float() for name in shapes}
        for name, value in values.items():
            if not bool(torch.isfinite(value).all()):
                raise SleaveError(f"{self.where}: {name} holds NaN or infinite values.")
        return values


@torch.no_grad()
def filled(sae: Architecture, values: Mapping[str, Tensor]) -> Architecture:
    """The autoencoder with these parameters, ready for inference."""
    for name, value in values.items():
        getattr(sae, name).copy_(value)
    return sae.requires_grad_(False).eval()


def k_of(config: Mapping[str, Any], where: str, default: int, library: str) -> float:
    """How many features fire on a row; where the settings do not say, what the library itself would take.

    Raises:
        SleaveError: it is no number above 0.
    """
    if "k" not in config:
        say(f"{where} does not say how many features fire (k). {library} takes {default} then, and so does sleave.")
    k = config.get("k", default)
    if isinstance(k, bool) or not isinstance(k, int | float) or not 0 < k < math.inf:
        raise SleaveError(f"{where} has k = {k!r}; it must be a number above 0.")
    return k


def mean_norm_factor(sample: Tensor | None, d_in: int, where: str) -> float:
    """sqrt(d_in) / mean ||x||: what SAELens multiplies activations by for `expected_average_only_in`.

    Raises:
        SleaveError: no sample, or it does not fit.
    """
    if sample is None:
        raise SampleNeeded(
            f"{where} reads activations times sqrt(d_in) / mean ||x|| (normalize_activations = "
            "'expected_average_only_in'), and does not say what that factor was. SAELens opens such a file as if there "
            f"were none, and its codes are wrong. {GIVE}"
        )
    return math.sqrt(d_in) / float(_checked_sample(sample, d_in).double().norm(dim=1).mean())


@torch.no_grad()
def with_threshold(
    sae: JumpReLUAutoencoder, threshold: float | None, k: float, sample: Tensor | None, where: str
) -> JumpReLUAutoencoder:
    """BatchTopK for inference: one threshold for all features.

    Args:
        sae: everything but the threshold.
        threshold: None if training never set it; then it is such that k features fire on average on the sample.
        k: how many features fire on a row, on average.
        sample: raw activations, or None.
        where: what holds it, for messages.

    Raises:
        SleaveError: the threshold was never set and there is no sample, or it does not fit.
    """
    if threshold is None:
        if sample is None:
            raise SampleNeeded(
                f"The threshold of {where} was never set (it was trained for few steps, or none). The library that "
                f"wrote it would let every positive feature fire, far more than k = {k:g}. {GIVE}"
            )
        threshold = _threshold(sae, k, _checked_sample(sample, sae.d_in))
    sae.threshold.fill_(threshold)
    return sae


def _threshold(sae: SparseAutoencoder, k: float, sample: Tensor) -> float:
    x = sample - sae.b_dec if sae.apply_b_dec_to_input else sample
    count = max(1, round(k * len(x)))
    value = largest_of_batch(x, sae.W_enc, sae.b_enc, count + 1).value
    # Halfway between what fires least and what nearly fires, where rounding does not matter.
    return float(value.topk(2, largest=False).values.mean()) if len(value) > count else 0.0


def _checked_sample(sample: Tensor, d_in: int) -> Tensor:
    if not isinstance(sample, Tensor) or sample.ndim != 2 or sample.shape[1] != d_in or not len(sample):
        given = f"shape {tuple(sample.shape)}" if isinstance(sample, Tensor) else f"type {type(sample).__name__}"
        raise SleaveError(f"`sample` has {given}; it must be a torch tensor of shape (rows, {d_in}).")
    if not bool(torch.isfinite(sample).all()) or not bool(sample.any()):
        raise SleaveError("`sample` holds NaN or infinite values, or nothing but zeros; give raw activations.")
    return sample.detach().cpu().float()
