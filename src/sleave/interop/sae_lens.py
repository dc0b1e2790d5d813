"""SAELens's own format: cfg.json beside sae_weights.safetensors, which `sae_lens.SAE.load_from_disk` opens as it is."""

from __future__ import annotations

import math
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
from sleave.base.files import load_tensors, save_tensors, write_json
from sleave.interop.weights import (
    Shape,
    Weights,
    filled,
    k_of,
    mean_norm_factor,
    read_settings,
    section,
    with_threshold,
)

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SCALER = "activation_scaler.json"  # beside a checkpoint of a training that scales its activations
FORMAT_VERSION = (
    "6.54.12"  # of SAELens; without one, SAELens takes the file for its pre-6.0 layout and drops the metadata
)
DEFAULT_K = 100
BATCH_TOPK = ("batchtopk", "matryoshka_batchtopk")  # only ever in checkpoints of a training
ARCHITECTURES = ("standard", "jumprelu", "gated", "topk", *BATCH_TOPK)
OWN_NORM = "it scales each row by the row's own norm or deviation, which no weights can take over"
NORMALISATIONS = {
    "layer_norm": OWN_NORM,
    "constant_norm_rescale": OWN_NORM,
    "covariance_whitening": "SAELens folds the whitening in when training ends: give what it saved then",
}


def write(sae: SparseAutoencoder, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write an autoencoder of raw activations as SAELens would.

    Raises:
        SleaveError: SAELens has no such autoencoder.
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
        "metadata": {"sae_lens_version": FORMAT_VERSION, "sleave_version": __version__, **metadata},
    }
    ready = {name: t.detach().float() for name, t in tensors.items()}
    save_tensors(path / WEIGHTS, ready, outdates=path / CONFIG)  # never the new weights beside the old settings
    write_json(path / CONFIG, config)


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


def read(folder: Path, sample: Tensor | None) -> SparseAutoencoder:
    """Read SAELens's folder: an autoencoder of any version, or a checkpoint of its training.

    Raises:
        SleaveError: see `autoencoder`.
    """
    where = f"`{folder / WEIGHTS}`"
    tensors, _ = load_tensors(folder / WEIGHTS)
    factor = read_settings(folder / SCALER).get("scaling_factor") if (folder / SCALER).is_file() else None
    if factor is not None and not (isinstance(factor, int | float) and 0 < factor < math.inf):
        raise SleaveError(f"`{folder / SCALER}` has scaling_factor = {factor!r}; it must be a number above 0.")
    config = _present(read_settings(folder / CONFIG), f"`{folder / CONFIG}`")
    return autoencoder(config, Weights(tensors, where), sample, factor)


def autoencoder(
    config: Mapping[str, Any], weights: Weights, sample: Tensor | None = None, factor: float | None = None
) -> SparseAutoencoder:
    """What SAELens's settings (of version 6) and tensors say.

    With `reshape_activations = "hook_z"`, rows are of all heads, one after the other.

    Args:
        config: `cfg.to_dict()`.
        weights: the state dict.
        sample: raw activations, for what a file may leave open; see `sleave.load`.
        factor: what training multiplied activations by, where that is known.

    Raises:
        SleaveError: an architecture or a normalisation that sleave has not, tensors that do not fit, or something open
            and no sample.
    """
    where = weights.where
    architecture = config.get("architecture")
    if architecture not in ARCHITECTURES:
        allowed = ", ".join(map(repr, ARCHITECTURES))
        raise SleaveError(f"{where} has architecture = {architecture!r}; sleave reads {allowed}.")
    values = _values(config, weights)
    if _is_scaled(config, where):
        factor = factor or mean_norm_factor(sample, len(values["b_dec"]), where)
        values |= {"W_enc": values["W_enc"].double() * factor}
        values |= {name: values[name].double() / factor for name in ("W_dec", "b_dec")}
    rescaled = architecture in ("topk", *BATCH_TOPK) and config.get("rescale_acts_by_decoder_norm", False)
    if rescaled:
        norm = torch.linalg.vector_norm(values["W_dec"], dim=1, dtype=torch.float64).clamp(
            min=1e-8
        )  # as SAELens has it
        values |= {"W_enc": values["W_enc"] * norm, "b_enc": values["b_enc"] * norm}
        values |= {"W_dec": values["W_dec"] / norm[:, None]}
    subtracts = bool(config.get("apply_b_dec_to_input", True))
    shape = (config["d_in"], config["d_sae"], subtracts)
    match architecture:
        case "standard":
            return filled(ReLUAutoencoder(*shape), values)
        case "jumprelu":
            return filled(JumpReLUAutoencoder(*shape), values)
        case "gated":
            values["b_enc"] = values.pop("b_gate")
            return filled(GatedAutoencoder(*shape), values)
    k = k_of(config, where, DEFAULT_K, "SAELens")
    if architecture == "topk":
        return filled(TopKAutoencoder(*shape, k=k), values)
    threshold = float(values.pop("topk_threshold")) or None  # 0: no step was made
    if threshold and rescaled:
        threshold /= factor or 1.0  # it is in units of codes, which the decoder's norms made larger by that
    return with_threshold(filled(JumpReLUAutoencoder(*shape), values), threshold, k, sample, where)


def _values(config: Mapping[str, Any], weights: Weights) -> dict[str, Tensor]:
    """The tensors by their present names, with what older files have beside them worked in."""
    tensors = dict(weights.tensors)
    if "log_threshold" in tensors:
        tensors["threshold"] = tensors.pop("log_threshold").double().exp()
    scaling = [tensors.pop(name) for name in ("scaling_factor", "finetuning_scaling_factor") if name in tensors]
    d_in, d_sae = config.get("d_in"), config.get("d_sae")
    if not (isinstance(d_in, int) and isinstance(d_sae, int)):
        raise SleaveError(f"{weights.where}: its settings have d_in = {d_in!r}, d_sae = {d_sae!r}; both must be given.")
    shapes: dict[str, Shape | None] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    if config["architecture"] == "gated":
        shapes |= dict.fromkeys(("b_gate", "r_mag", "b_mag"), (d_sae,))
    else:
        shapes["b_enc"] = (d_sae,)
    if config["architecture"] == "jumprelu":
        shapes["threshold"] = (d_sae,)
    if config["architecture"] in BATCH_TOPK:
        shapes["topk_threshold"] = ()
    values = Weights(tensors, weights.where).checked(shapes, f" its {CONFIG} (d_in = {d_in}, d_sae = {d_sae})")
    for factor in scaling:
        values["W_dec"] = values["W_dec"] * _finetuned(factor, config, weights.where, d_sae)[:, None]
    return values


def _finetuned(factor: Tensor, config: Mapping[str, Any], where: str, d_sae: int) -> Tensor:
    """What each feature's code is times on its way to the decoder: of SAELens before 6."""
    factor = Weights({"scaling_factor": factor}, where).checked({"scaling_factor": (d_sae,)})["scaling_factor"]
    if not config.get("finetuning_scaling_factor") and not bool(((factor - 1).abs() < 1e-5).all()):
        raise SleaveError(
            f"{where} has a scaling_factor, and its {CONFIG} says finetuning_scaling_factor = false; SAELens refuses "
            f"it as well. Set finetuning_scaling_factor to true in {CONFIG} if the factor belongs to the decoder, or "
            "remove the tensor."
        )
    return factor


def _is_scaled(config: Mapping[str, Any], where: str) -> bool:
    kind = config.get("normalize_activations", "none")
    if kind in ("none", "expected_average_only_in"):
        return bool(kind != "none")
    reason = NORMALISATIONS.get(str(kind), "SAELens has no such thing")
    raise SleaveError(
        f"{where} has normalize_activations = {kind!r}; sleave reads 'none' and 'expected_average_only_in': {reason}."
    )


def _present(config: dict[str, Any], where: str) -> dict[str, Any]:
    """Settings as SAELens 6 has them, of any version: what it makes of older ones, but where it would be mistaken.

    Raises:
        SleaveError: an activation function that SAELens 6 has not.
    """
    version = str(config.get("sae_lens_version") or section(config, "metadata", where).get("sae_lens_version") or "0")
    major = version.split(".")[0]
    if major.isdigit() and int(major) >= 6:
        return config
    old = {"architecture": "standard"} | config
    function = old.get("activation_fn", old.get("activation_fn_str", "relu"))
    k = section(old, "activation_fn_kwargs", where).get("k")
    if function not in ("relu", "topk") or (function == "topk" and k is None):
        raise SleaveError(
            f"{where} has activation_fn = {function!r} and activation_fn_kwargs = {old.get('activation_fn_kwargs')!r}; "
            "sleave reads 'relu', and 'topk' with its k. (SAELens 6 takes any other for relu, and codes are wrong.)"
        )
    if k is not None:
        old |= {"architecture": "topk", "k": k}
    if old.get("normalize_activations") in (None, False, True):
        old["normalize_activations"] = "expected_average_only_in" if old.get("normalize_activations") else "none"
    return old
