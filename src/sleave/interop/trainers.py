"""`sleave.attach`: our penalties in the trainers of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.penalties.penalty import Penalty

Trainer = TypeVar("Trainer")


def attach(penalty: Penalty, trainer: Trainer) -> Trainer:
    """Add a penalty to the loss that another library's trainer minimises.

    trainer = sae_lens.SAETrainer(...)
    sleave.attach(sleave.MIOrtho(), trainer)
    trainer.fit()

    The penalty is of the codes that the trainer computes, of the activations as it scales them. It is shown among the
    losses that the trainer logs, as "sleave", and is part of the loss there.

    Args:
        penalty: its weight is in units of the trainer's loss.
        trainer: of SAELens (`SAETrainer`) or of dictionary_learning (`TopKTrainer`, `BatchTopKTrainer`,
            `MatryoshkaBatchTopKTrainer`, `StandardTrainer`, `JumpReluTrainer`, `GatedSAETrainer` and those like them).

    Returns:
        The same trainer, so that a function that makes one can stand where dictionary_learning's `trainSAE` wants a
        class: {"trainer": lambda **settings: sleave.attach(penalty, TopKTrainer(**settings)), ...}.

    Raises:
        SleaveError: something else.
    """
    if not isinstance(penalty, Penalty):
        raise SleaveError(f"`penalty` is a {type(penalty).__name__}; give a sleave penalty, such as sleave.MIOrtho().")
    sae, dictionary = getattr(trainer, "sae", None), getattr(trainer, "ae", None)
    if hasattr(sae, "training_forward_pass"):
        _into_sae_lens(penalty, sae)
    elif hasattr(trainer, "loss") and hasattr(dictionary, "encode") and hasattr(dictionary, "decode"):
        _into_dictionary_learning(penalty, trainer)
    else:
        raise SleaveError(
            f"`trainer` is a {type(trainer).__module__}.{type(trainer).__qualname__}; it must be SAELens's SAETrainer "
            "or a trainer of dictionary_learning. In a loop of your own, add penalty(acts, W_dec, x_hat - x) to the "
            "loss."
        )
    return trainer


def _into_sae_lens(penalty: Penalty, sae: Any) -> None:
    forward_pass = sae.training_forward_pass

    def with_penalty(step_input: Any) -> Any:
        output = forward_pass(step_input)
        acts = output.feature_acts
        value = penalty(acts.to_dense(), _directions(sae), (output.sae_out - output.sae_in).detach())
        output.loss = output.loss + value
        output.losses["sleave"] = output.losses.get("sleave", 0) + value
        return output

    sae.training_forward_pass = with_penalty


def _directions(sae: Any) -> Tensor:
    """What a code of one adds to the reconstruction: SAELens may take the decoder as if its rows were of norm one."""
    W_dec: Tensor = sae.W_dec
    return W_dec / W_dec.norm(dim=1, keepdim=True) if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False) else W_dec


def _into_dictionary_learning(penalty: Penalty, trainer: Any) -> None:
    loss, dictionary = trainer.loss, trainer.ae

    def with_penalty(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        with _caught(dictionary) as caught:
            result = loss(x, *args, **kwargs)
        acts = caught["acts"]
        x_hat = caught["x_hat"] if "x_hat" in caught else dictionary.decode(acts)
        W_dec = dictionary.W_dec if hasattr(dictionary, "W_dec") else dictionary.decoder.weight.t()
        given = (acts, W_dec, (x_hat - x).detach())
        if isinstance(result, Tensor):
            return result + penalty(*given)
        # Logging looks at a batch that is trained on next; the penalty shall not have seen it twice.
        state = penalty.state()
        value = float(penalty(*given))
        penalty.restore(state)
        losses = result[-1]
        losses["sleave"] = losses.get("sleave", 0.0) + value
        if "loss" in losses:
            losses["loss"] += value
        return result

    trainer.loss = with_penalty


@contextmanager
def _caught(dictionary: Any) -> Iterator[dict[str, Tensor]]:
    """Within the block, note the first codes and the first reconstruction: trainers encode, or decode, or both."""
    caught: dict[str, Tensor] = {}
    encode, decode = dictionary.encode, dictionary.decode

    def encoding(*args: Any, **kwargs: Any) -> Any:
        result = encode(*args, **kwargs)
        caught.setdefault("acts", result[0] if isinstance(result, tuple) else result)
        return result

    def decoding(acts: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        caught.setdefault("acts", acts)
        x_hat: Tensor = decode(acts, *args, **kwargs)
        caught.setdefault("x_hat", x_hat)
        return x_hat

    with _replaced(dictionary, encode=encoding, decode=decoding):
        yield caught


@contextmanager
def _replaced(module: Any, **methods: Callable[..., Any]) -> Iterator[None]:
    own = {name: vars(module)[name] for name in methods if name in vars(module)}
    vars(module).update(methods)
    try:
        yield
    finally:
        for name in methods:
            del vars(module)[name]
        vars(module).update(own)
