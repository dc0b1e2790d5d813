"""Everything a run needs to go on as if never stopped, in one safetensors file."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sleave.activations.source import ActivationSource
from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.errors import SleaveError
from sleave.base.files import dtype_name, load_tensors, save_tensors
from sleave.base.progress import say
from sleave.training.step import Stepper


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        step: updates done.
        rows: training rows seen.
        since_fired: (d_sae,) rows since each feature last fired.
    """

    since_fired: Tensor
    step: int = 0
    rows: int = 0

    @classmethod
    def none(cls, stepper: Stepper) -> Progress:
        """Before the first step."""
        d_sae = stepper.sae.d_sae * stepper.mesh.features.size
        return cls(torch.zeros(d_sae, dtype=torch.int64, device=stepper.device))


def write_checkpoint(path: Path, stepper: Stepper, source: ActivationSource, progress: Progress) -> None:
    """Write a checkpoint atomically: the former one stays until this one is whole.

    Every process of the run comes by here; the first one writes, all features together.
    """
    tensors = {f"sae.{n}": _whole(stepper, n, t) for n, t in stepper.sae.state_dict().items()}
    tensors |= _optimizer_tensors(stepper)
    if not stepper.mesh.everyone.first:
        return
    tensors |= {f"source.{n}": t for n, t in source.state().items()}
    tensors |= {f"penalty.{n}": t for n, t in (stepper.penalty.state() if stepper.penalty else {}).items()}
    tensors |= {"since_fired": progress.since_fired, "rng.cpu": torch.get_rng_state()}
    if stepper.device.type == "cuda":
        tensors["rng.cuda"] = torch.cuda.get_rng_state(stepper.device)
    state = {"step": progress.step, "rows": progress.rows, "scaler": stepper.scaler.state_dict()}
    state |= {"skipped": stepper.skipped, "precision": dtype_name(stepper.dtype)}
    if stepper.controller is not None:
        state["controller"] = stepper.controller.state()
    save_tensors(path, tensors, {"state": json.dumps(state)})


def read_checkpoint(path: Path, stepper: Stepper, source: ActivationSource) -> Progress:
    """Put a checkpoint back into a freshly built run.

    Raises:
        SleaveError: the file is truncated or altered.
    """
    try:
        tensors, metadata = load_tensors(path)
    except SleaveError as error:
        raise SleaveError(f"{error} Delete it, and the same command begins the run anew.") from error
    state: dict[str, Any] = json.loads(metadata["state"])
    stepper.sae.load_state_dict({n: _part(stepper, n, t) for n, t in _under(tensors, "sae.").items()})
    _restore_optimizer(stepper, tensors)
    if state["scaler"]:
        stepper.scaler.load_state_dict(state["scaler"])
    stepper.skipped = state["skipped"]
    before, now = state.get("precision"), dtype_name(stepper.dtype)
    if before not in (None, now):
        say(f"{path.parent} was trained in {before} so far and goes on in {now}, as training.precision has it here.")
    if stepper.controller is not None:
        stepper.controller.restore(state["controller"])
    source.restore(_under(tensors, "source."))
    if stepper.penalty is not None:
        stepper.penalty.restore({n: t.to(stepper.device) for n, t in _under(tensors, "penalty.").items()})
    torch.set_rng_state(tensors["rng.cpu"])
    if stepper.device.type == "cuda" and "rng.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng.cuda"], stepper.device)
    return Progress(tensors["since_fired"].to(stepper.device), state["step"], state["rows"])


def whole_autoencoder(stepper: Stepper) -> SparseAutoencoder:
    """The autoencoder, of all features; every process of the run comes by here."""
    if stepper.mesh.features.size == 1:
        return stepper.sae
    whole = copy.deepcopy(stepper.sae).cpu()
    for name, tensor in stepper.sae.state_dict().items():
        if stepper.sae.feature_dimension(name) is not None:
            getattr(whole, name).data = _whole(stepper, name, tensor)
    return whole


def _whole(stepper: Stepper, name: str, tensor: Tensor) -> Tensor:
    """A tensor of the autoencoder's state, or of a moment of it, of all features."""
    dimension, features = stepper.sae.feature_dimension(name), stepper.mesh.features
    if dimension is None or features.size == 1:
        return tensor
    parts = features.gather(tensor.movedim(dimension, 0).contiguous())
    return torch.cat([part.cpu() for part in parts]).movedim(0, dimension)


def _part(stepper: Stepper, name: str, tensor: Tensor) -> Tensor:
    """What of it is this process's."""
    dimension, features = stepper.sae.feature_dimension(name), stepper.mesh.features
    if dimension is None or features.size == 1:
        return tensor
    return tensor.movedim(dimension, 0)[features.part(tensor.shape[dimension])].movedim(0, dimension)


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _parameters(sae: SparseAutoencoder) -> list[str]:
    return [name for name, _ in sae.named_parameters()]  # the optimizer numbers them in this order


def _optimizer_tensors(stepper: Stepper) -> dict[str, Tensor]:
    names = _parameters(stepper.sae)
    moments = stepper.optimizer.state_dict()["state"]
    return {
        f"optimizer.{names[n]}.{key}": _whole(stepper, names[n], t) if t.ndim else t
        for n, parts in moments.items()
        for key, t in parts.items()
    }


def _restore_optimizer(stepper: Stepper, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for n, (name, parameter) in enumerate(stepper.sae.named_parameters()):
        if parts := _under(tensors, f"optimizer.{name}."):
            # Laid out as the parameter, which the fused optimizer relies on; files hold everything row by row.
            state[n] = {
                k: torch.empty_like(parameter).copy_(_part(stepper, name, t)) if t.ndim else t for k, t in parts.items()
            }
    whole = stepper.optimizer.state_dict()
    stepper.optimizer.load_state_dict({**whole, "state": state})
