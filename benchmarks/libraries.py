"""Training steps of sleave, SAELens and dictionary_learning, to be held against each other in one process."""

from __future__ import annotations

import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from sleave.autoencoder.folding import fold
from sleave.base.device import choose_dtype
from sleave.base.files import dtype_name, torch_dtype
from sleave.base.settings import parse
from sleave.training.checkpoint import Progress
from sleave.training.loop import advance, begin
from sleave.training.settings import RunSettings
from sleave.training.step import Stepper, autocast

Infer = Callable[[Tensor], tuple[Tensor, Tensor]]  # scaled rows -> codes and reconstruction
L1 = 0.04  # of ReLU autoencoders


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        architecture: `relu`, `topk` or `batch_topk`.
        start: `own` or `same`.
    """

    architecture: str
    start: str
    k: int
    d_in: int
    d_sae: int
    steps: int
    batch: int
    lr: float
    precision: str
    device: str
    seed: int


@dataclass(frozen=True)
class Trainer:
    """A library's training: one step on scaled rows, and what it then infers by."""

    step: Callable[[Tensor], object]
    finish: Callable[[], Infer]


def from_the_same(case: Case, rows: Tensor) -> Stepper:
    """sleave's training from the weights that all are to begin from."""
    return begin(run_settings(case, "random"), rows)


def run_settings(case: Case, initialisation: str) -> RunSettings:
    """The case in sleave's words."""
    autoencoder = {"kind": case.architecture, "d_sae": case.d_sae, "initialisation": initialisation}
    if case.architecture != "relu":
        autoencoder["k"] = case.k
    training = {"steps": case.steps, "precision": case.precision, "device": case.device}
    return parse(
        RunSettings,
        {
            "seed": case.seed,
            "autoencoder": autoencoder,
            "sparsity": {"weight": L1},
            "constraint": {"kind": "none"},
            "optimizer": {"lr": case.lr},
            "training": training,
        },
        where="The benchmark",
    )


def with_sleave(case: Case, rows: Tensor, first: Stepper) -> Trainer:
    """sleave's `Stepper`, by its loop's own schedules."""
    settings = run_settings(case, "random" if case.start == "same" else "data")
    stepper = begin(settings, rows)
    done = Progress.none(stepper)

    def finish() -> Infer:
        sae = fold(stepper.sae, torch.zeros(case.d_in), torch.ones(case.d_in)).to(case.device)
        return lambda x: ((acts := sae.encode(x)), sae.decode(acts))

    return Trainer(lambda x: advance(settings, stepper, done, x), finish)


def with_sae_lens(case: Case, rows: Tensor, first: Stepper) -> Trainer:
    """SAELens's `SAETrainer`, step by step as its `fit` does."""
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(case.seed)
    shape = {"d_in": case.d_in, "d_sae": case.d_sae, "device": case.device}
    own = {"l1_coefficient": L1} if case.architecture == "relu" else {"k": case.k}
    kind = {"relu": "Standard", "topk": "TopK", "batch_topk": "BatchTopK"}[case.architecture] + "TrainingSAE"
    sae = getattr(sae_lens, kind)(getattr(sae_lens, f"{kind}Config")(**shape, **own))
    if case.start == "same":
        copy_weights(first, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)
    config = SAETrainerConfig(
        total_training_samples=case.steps * case.batch,
        train_batch_size_samples=case.batch,
        lr=case.lr,
        lr_end=case.lr,
        device=case.device,
        autocast=case.precision == "bfloat16",
    )
    given: list[Tensor] = []
    trainer = SAETrainer(config, sae, data_provider=handed_out(given))

    def step(x: Tensor) -> None:
        given.append(x)
        trainer.maybe_reset_sparsity()
        trainer.step(next(trainer.data_provider))
        trainer.n_training_steps += 1

    return Trainer(step, lambda: inferred_by_sae_lens(sae, case.device))


def handed_out(given: list[Tensor]) -> Iterator[Tensor]:
    """Each batch once, when it has been given."""
    while True:
        yield given.pop()


def inferred_by_sae_lens(sae: Any, device: str) -> Infer:
    """What SAELens makes of a trained autoencoder when it saves it for inference."""
    from sae_lens import SAE

    with tempfile.TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        saved = SAE.load_from_disk(folder, device=device)
    return lambda x: ((acts := saved.encode(x)), saved.decode(acts))


def with_dictionary_learning(case: Case, rows: Tensor, first: Stepper) -> Trainer:
    """dictionary_learning's trainers, step by step as its `trainSAE` does."""
    # dictionary_learning imports nnsight wherever it reads language models, at import; nothing here does, and nnsight
    # would bring other versions of packages that sleave needs.
    stand_in = types.ModuleType("nnsight")
    stand_in.LanguageModel = object  # type: ignore[attr-defined]
    sys.modules.setdefault("nnsight", stand_in)
    from dictionary_learning.trainers import BatchTopKTrainer, StandardTrainer, TopKTrainer

    common = {
        "steps": case.steps,
        "activation_dim": case.d_in,
        "dict_size": case.d_sae,
        "layer": 0,
        "lm_name": "",
        "lr": case.lr,
        "warmup_steps": 0,
        "seed": case.seed,
        "device": case.device,
    }
    if case.architecture == "relu":
        trainer = StandardTrainer(**common, l1_penalty=L1, sparsity_warmup_steps=None)
    elif case.architecture == "topk":
        trainer = TopKTrainer(**common, k=case.k)
    else:
        trainer = BatchTopKTrainer(**common, k=case.k, threshold_start_step=min(1000, case.steps // 2))
    ae = trainer.ae
    if case.start == "same":
        b_dec = ae.bias if case.architecture == "relu" else ae.b_dec
        copy_weights(first, ae.encoder.weight.t(), ae.encoder.bias, ae.decoder.weight.t(), b_dec)
    # Its step 0 replaces b_dec by the first batch's geometric median.
    number = iter(range(1 if case.start == "same" else 0, case.steps + 1))

    def step(x: Tensor) -> None:
        with autocast(torch.device(case.device), torch_dtype(case.precision)):  # as trainSAE does on GPUs
            trainer.update(next(number), x)

    def finish() -> Infer:
        return lambda x: ((acts := ae.encode(x)), ae.decode(acts))

    return Trainer(step, finish)


@torch.no_grad()
def copy_weights(first: Stepper, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor) -> None:
    """Begin where sleave begins; the others encode x - b_dec, sleave x."""
    sae = first.sae
    W_enc.copy_(sae.W_enc)
    b_enc.copy_(sae.b_enc + sae.b_dec @ sae.W_enc)
    W_dec.copy_(sae.W_dec)
    b_dec.copy_(sae.b_dec)


LIBRARIES: dict[str, Callable[[Case, Tensor, Stepper], Trainer]] = {
    "sleave": with_sleave,
    "SAELens": with_sae_lens,
    "dictionary_learning": with_dictionary_learning,
}


def fast_precision() -> str:
    """What training computes in here by default: bfloat16 where the CPU has instructions for it, else float32."""
    return dtype_name(choose_dtype("auto", torch.device("cpu")))


def versions() -> dict[str, str | None]:
    """Of the other libraries."""

    def of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {package: of(package) for package in ("sae-lens", "dictionary-learning")}
