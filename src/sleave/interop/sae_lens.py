"""SAELens's own format: cfg.json beside sae_weights.safetensors, which `sae_lens.SAE.load_from_disk` opens as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sleave.autoencoder.gated import GatedAutoencoder
from sleave.autoencoder.jumprelu import JumpReLUAutoencoder
from sleave.autoencoder.model import SparseAutoencoder
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.autoencoder.topk import TopKAutoencoder
from sleave.base.errors import SleaveError
from sleave.base.files import load_tensors, read_json, save_tensors, write_json

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
FORMAT_VERSION = (
    "6.54.12"  # of SAELens; without one, SAELens takes the file for its pre-6.0 layout and drops the metadata
)
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


def save(sae: SparseAutoencoder, path: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write an autoencoder of raw activations as SAELens would.

    Args:
        sae: reads raw activations (see `fold`).
        path: the folder.
        metadata: goes into cfg.json as it is; SAELens's keys are model_name, hook_name, context_size and others.
    """
    from sleave import __version__

    architecture, own, tensors = _in_their_words(sae)
    config = {
        "architecture": architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.apply_b_dec_to_input,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **own,
        "metadata": {"sae_lens_version": FORMAT_VERSION, "sleave_version": __version__, **(metadata or {})},
    }
    save_tensors(Path(path) / WEIGHTS, {name: t.detach().float() for name, t in tensors.items()})
    write_json(Path(path) / CONFIG, config)


def _in_their_words(sae: SparseAutoencoder) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """SAELens's name of the architecture, its own settings, and the tensors by SAELens's names."""
    common: dict[str, Tensor] = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
    match sae:
        case ReLUAutoencoder():
            return "standard", {}, common | {"b_enc": sae.b_enc}
        case JumpReLUAutoencoder():
            return "jumprelu", {}, common | {"b_enc": sae.b_enc, "threshold": sae.threshold}
        case GatedAutoencoder():
            return "gated", {}, common | {"b_gate": sae.b_enc, "r_mag": sae.r_mag, "b_mag": sae.b_mag}
        case TopKAutoencoder():
            return "topk", {"k": sae.k, "rescale_acts_by_decoder_norm": False}, common | {"b_enc": sae.b_enc}
    raise SleaveError(
        f"A {sae.architecture} autoencoder cannot be saved as it is: save sleave.fold(sae, shift, scale), which "
        "has its threshold for inference."
    )


def load(path: str | Path) -> SparseAutoencoder:
    """Read an autoencoder in SAELens's format: a folder with cfg.json, or a run directory that has one in `sae/`.

    Its weights do not require gradients; to train it further, call `.requires_grad_(True)`.

    Raises:
        SleaveError: no such files, an architecture that cannot be read, or weights that do not fit their config.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file() and (folder / "sae" / CONFIG).is_file():
        folder = folder / "sae"
    if not (folder / CONFIG).is_file():
        raise SleaveError(
            f"`{path}` holds no autoencoder: neither {CONFIG} nor sae/{CONFIG} is there. "
            "Give a run directory of a finished `sleave train`, or a folder that SAELens saved."
        )
    config = read_json(folder / CONFIG)
    for key, readable in (
        ("architecture", ("standard",)),
        ("normalize_activations", ("none",)),
        ("reshape_activations", ("none",)),
        ("activation_fn", ("relu",)),
    ):
        default = None if key == "architecture" else readable[0]
        if (given := config.get(key, default)) not in readable:
            raise SleaveError(
                f"`{folder / CONFIG}` has {key} = {given!r}; sleave reads {', '.join(map(repr, readable))}."
            )
    tensors, _ = load_tensors(folder / WEIGHTS)
    if missing := [name for name in NAMES if name not in tensors]:
        raise SleaveError(f"`{folder / WEIGHTS}` has no {', '.join(missing)}; it holds {', '.join(sorted(tensors))}.")
    d_in, d_sae = config.get("d_in"), config.get("d_sae")
    width_in, width = tensors["W_enc"].shape
    sae = ReLUAutoencoder(width_in, width, bool(config.get("apply_b_dec_to_input", True)))
    for name, parameter in sae.named_parameters():
        given = tuple(tensors[name].shape)
        if given != tuple(parameter.shape) or (sae.d_in, sae.d_sae) != (d_in, d_sae):
            raise SleaveError(
                f"`{folder / WEIGHTS}` does not fit its {CONFIG} (d_in = {d_in}, d_sae = {d_sae}): "
                f"{name} has shape {given}, W_enc has shape {tuple(tensors['W_enc'].shape)}."
            )
        if not bool(torch.isfinite(tensors[name]).all()):
            raise SleaveError(f"`{folder / WEIGHTS}`: {name} holds NaN or infinite values.")
    sae.load_state_dict({name: tensors[name].float() for name in NAMES})
    return sae.requires_grad_(False).eval()
