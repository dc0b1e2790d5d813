"""dictionary_learning: ae.pt, a state dict, beside config.json, as its `trainSAE` writes them."""

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
from sleave.base.files import atomic_path, write_json
from sleave.interop.weights import Shape, Weights, filled, read_settings, section, with_threshold

CONFIG = "config.json"
WEIGHTS = "ae.pt"
LINEAR = {"W_enc": "encoder.weight", "b_enc": "encoder.bias", "W_dec": "decoder.weight"}  # matrices are (out, in)
PLAIN = {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
# Their classes, and the names they have for what we have.
CLASSES: dict[str, dict[str, str]] = {
    "AutoEncoder": LINEAR | {"b_dec": "bias"},
    "AutoEncoderNew": LINEAR | {"b_dec": "decoder.bias"},
    "GatedAutoEncoder": LINEAR | {"b_enc": "gate_bias", "b_dec": "decoder_bias", "r_mag": "r_mag", "b_mag": "mag_bias"},
    "JumpReluAutoEncoder": PLAIN,
    "AutoEncoderTopK": LINEAR | {"b_dec": "b_dec", "k": "k", "threshold": "threshold"},
    "BatchTopKSAE": LINEAR | {"b_dec": "b_dec", "k": "k", "threshold": "threshold"},
    "MatryoshkaBatchTopKSAE": PLAIN | {"k": "k", "group_sizes": "group_sizes"},
}


def read(path: Path, sample: Tensor | None) -> SparseAutoencoder:
    """Read ae.pt or a checkpoint of it; the class is that in config.json, beside it or beside `checkpoints`.

    Without config.json the names of the tensors tell the class, but that of TopK from that of BatchTopK.

    Raises:
        SleaveError: see `autoencoder`; or the file is no state dict, or its class cannot be told.
    """
    where = f"`{path}`"
    tensors = _state_dict(path)
    folder = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    config = folder / CONFIG
    trainer = section(read_settings(config), "trainer", f"`{config}`") if config.is_file() else {}
    kind = trainer.get("dict_class") or _class_of(tensors, where)
    sae = autoencoder({"dict_class": kind}, Weights(tensors, where), sample)
    if "k" in tensors and trainer.get("k", k := int(tensors["k"])) != k:
        raise SleaveError(f"{where} has k = {k}, and `{config}` k = {trainer['k']}; they do not belong together.")
    return _with_unit_decoder(sae) if kind == "AutoEncoder" else sae


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail anywhere in zip and in reading the pickle
        raise SleaveError(
            f"`{path}` cannot be read as tensors ({type(error).__name__}: {str(error)[:100]}); it was truncated or "
            "altered, or holds other Python objects, which sleave does not unpickle."
        ) from error
    if not isinstance(tensors, dict) or not all(
        isinstance(n, str) and isinstance(t, Tensor) for n, t in tensors.items()
    ):
        raise SleaveError(f"`{path}` holds a {type(tensors).__name__}, not the tensors of a dictionary by their names.")
    return tensors


def _class_of(tensors: Mapping[str, Tensor], where: str) -> str:
    fitting = [kind for kind, names in CLASSES.items() if set(names.values()) == set(tensors)]
    if len(fitting) == 1:
        return fitting[0]
    what = f"may be {' or '.join(fitting)}" if fitting else f"holds {', '.join(sorted(tensors)) or 'nothing'}"
    raise SleaveError(
        f"{where} {what}, and there is no {CONFIG} beside it to say which class it is. Put the {CONFIG} that "
        f"dictionary_learning wrote there; sleave reads {', '.join(CLASSES)}."
    )


@torch.no_grad()
def _with_unit_decoder(sae: SparseAutoencoder) -> SparseAutoencoder:
    """What `AutoEncoder.from_pretrained` does by default: codes are those of decoder columns of norm one."""
    norm = torch.linalg.vector_norm(sae.W_dec, dim=1, dtype=torch.float64)
    if not torch.allclose(norm, torch.ones_like(norm)):
        norm = torch.where(norm > 0, norm, 1)
        sae.W_enc.mul_(norm)
        sae.b_enc.mul_(norm)
        sae.W_dec.div_(norm[:, None])
    return sae


def autoencoder(config: Mapping[str, Any], weights: Weights, sample: Tensor | None = None) -> SparseAutoencoder:
    """What a dictionary's class and state dict say, as it is: decoder columns keep their norms.

    Args:
        config: dict_class, and for a live JumpReluAutoEncoder apply_b_dec_to_input.
        weights: the state dict.
        sample: raw activations, for BatchTopK whose threshold was never set.

    Raises:
        SleaveError: another class, tensors that do not fit, or a threshold that was never set and no sample.
    """
    kind = config["dict_class"]
    if not isinstance(kind, str) or kind not in CLASSES:
        raise SleaveError(f"{weights.where} has dict_class = {kind!r}; sleave reads {', '.join(map(repr, CLASSES))}.")
    values = _values(kind, weights)
    d_sae, d_in = values["W_dec"].shape
    match kind:
        case "AutoEncoder":
            return filled(ReLUAutoencoder(d_in, d_sae, apply_b_dec_to_input=True), values)
        case "AutoEncoderNew":
            return filled(ReLUAutoencoder(d_in, d_sae), values)
        case "GatedAutoEncoder":
            return filled(GatedAutoencoder(d_in, d_sae, apply_b_dec_to_input=True), values)
        case "JumpReluAutoEncoder":
            subtracts = bool(config.get("apply_b_dec_to_input", False))
            return filled(JumpReLUAutoencoder(d_in, d_sae, subtracts), values)
    k, threshold = int(values.pop("k")), float(values.pop("threshold"))
    if kind == "AutoEncoderTopK":  # its threshold is for another use than the default
        return filled(TopKAutoencoder(d_in, d_sae, apply_b_dec_to_input=True, k=k), values)
    values.pop("group_sizes", None)
    sae = filled(JumpReLUAutoencoder(d_in, d_sae, apply_b_dec_to_input=True), values)
    return with_threshold(sae, None if threshold < 0 else threshold, k, sample, weights.where)


def _values(kind: str, weights: Weights) -> dict[str, Tensor]:
    """The tensors by our names and in our orientation."""
    names = CLASSES[kind]
    d_sae, d_in = weights.matrix_shape(names["W_dec"])
    linear = names["W_dec"] == LINEAR["W_dec"]
    if linear:
        d_sae, d_in = d_in, d_sae
    ours: dict[str, Shape | None] = dict.fromkeys(names, (d_sae,))
    ours |= {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,), "k": (), "group_sizes": None}
    if "k" in names:
        ours["threshold"] = ()
    shapes = {theirs: ours[name] for name, theirs in names.items()}
    if linear:
        shapes |= {names["W_enc"]: (d_sae, d_in), names["W_dec"]: (d_in, d_sae)}
    tensors = weights.checked(shapes)
    values = {name: tensors[theirs] for name, theirs in names.items()}
    if linear:
        values |= {name: values[name].t() for name in ("W_enc", "W_dec")}
    return values


def write(sae: SparseAutoencoder, path: Path, metadata: Mapping[str, Any]) -> None:
    """Write an autoencoder of raw activations such that `dictionary_learning.utils.load_dictionary` opens it.

    Raises:
        SleaveError: dictionary_learning has no such autoencoder.
    """
    from sleave import __version__

    kind, values = _in_their_words(sae)
    names = CLASSES[kind]
    if names["W_dec"] == LINEAR["W_dec"]:
        values |= {name: values[name].t() for name in ("W_enc", "W_dec")}
    tensors = {theirs: values[name].detach().cpu().contiguous() for name, theirs in names.items()}
    tensors = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    trainer = {"dict_class": kind, "activation_dim": sae.d_in, "dict_size": sae.d_sae}
    if kind == "AutoEncoderTopK":
        trainer["k"] = int(values["k"])
    with atomic_path(path / WEIGHTS) as temporary, temporary.open("wb") as file:
        torch.save(tensors, file)
        (path / CONFIG).unlink(missing_ok=True)  # never the new weights beside the old settings
    write_json(path / CONFIG, {"trainer": trainer, "metadata": {"sleave_version": __version__, **metadata}})


def _in_their_words(sae: SparseAutoencoder) -> tuple[str, dict[str, Tensor]]:
    """dictionary_learning's name of the class, and the tensors by our names, with biases as that class reads them."""
    centre = sae.b_dec.detach().double() @ sae.W_enc.detach().double()
    values: dict[str, Tensor] = {name: p.detach() for name, p in sae.named_parameters()}
    norm = torch.linalg.vector_norm(values["W_dec"], dim=1, dtype=torch.float64)
    # Opening an AutoEncoder normalises its decoder, which changes codes unless nothing is to be done.
    unit = torch.allclose(norm, torch.ones_like(norm))
    match sae:
        case ReLUAutoencoder() if unit:
            kind, subtracts = "AutoEncoder", True
        case ReLUAutoencoder():
            kind, subtracts = "AutoEncoderNew", False
        case JumpReLUAutoencoder():
            kind, subtracts = "JumpReluAutoEncoder", False
        case GatedAutoencoder():
            kind, subtracts = "GatedAutoEncoder", True
        case TopKAutoencoder():
            kind, subtracts = "AutoEncoderTopK", True
            values |= {"k": torch.tensor(int(sae.k), dtype=torch.int), "threshold": torch.tensor(-1.0)}
        case _:
            raise SleaveError(
                f"A {sae.architecture} autoencoder cannot be written for dictionary_learning as it is: save "
                "sleave.fold(sae, shift, scale), which has its threshold for inference."
            )
    shift = (int(subtracts) - int(sae.apply_b_dec_to_input)) * centre
    values["b_enc"] = values["b_enc"] + shift
    if isinstance(sae, GatedAutoencoder):
        values["b_mag"] = values["b_mag"] + shift * values["r_mag"].exp()
    return kind, values
