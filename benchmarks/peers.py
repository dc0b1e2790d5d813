"""Training TopK and BatchTopK with sleave, SAELens and dictionary_learning, side by side on the same rows.

    PYTHONPATH=DICTIONARY_LEARNING python -m benchmarks.peers activations/mi_ortho --layer 13 --d-sae 2560 \
        --steps 1000 --batch 2048 --k 16,32,64 --out benchmarks/peers.txt

The same for all: rows, their units (standardised, by the training rows' statistics) and order, steps, learning rate
(constant), Adam's betas (0.9, 0.999), no weight decay, d_sae, k, precision. Each begins from its library's `own`
weights, and from the `same` ones: random unit decoder rows, the encoder tied to them, b_dec the geometric median. The
libraries take their steps in turn, another first each time; seconds are medians, ratios are taken step by step.
Held-out rows are encoded and decoded by each library's own inference: BatchTopK's is by its threshold, and SAELens's of
what it saves for inference. Where these give different L0, their FVU do not compare.

Each library's own, by its defaults:
* sleave: gradient clipped to norm 1. AuxK times 1/32 for features silent for 100,000 rows. Threshold: running mean, 0.1
  (0.01 when the kept peers.txt was made), from its first value. Its own weights are data points.
* SAELens: gradient clipped to norm 1. AuxK times 1 for features silent for 1,000 batches. Decoder rows are not held at
  norm one; codes are times their norm. Threshold: running mean, 0.01, from 0.
* dictionary_learning: gradient clipped to norm 1. AuxK times 1/32 (over the residual's variance) for features silent
  for 10 million rows. b_dec begins as the geometric median of the first batch. Threshold: running mean, 0.001, from its
  first value; that is of step 1,000 by default, here of the middle of training if that is sooner, since otherwise a
  short training would have none. Its warm-up of 1,000 steps is left out, since the others have none.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sleave.activations.source import StoredSource
from sleave.activations.store import Store
from sleave.autoencoder.folding import fold
from sleave.autoencoder.initialisation import NUM_SAMPLES
from sleave.base.device import choose_device
from sleave.base.environment import environment
from sleave.base.progress import progress
from sleave.base.settings import parse
from sleave.evaluation.reconstruction import Reconstruction
from sleave.training.checkpoint import Progress
from sleave.training.loop import advance, begin
from sleave.training.settings import RunSettings
from sleave.training.step import Stepper, autocast

WARM = 10  # steps whose seconds do not count
ROWS = 2048  # held-out rows at a time
Infer = Callable[[Tensor], tuple[Tensor, Tensor]]  # scaled rows -> codes and reconstruction


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        architecture: `topk` or `batch_topk`.
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


def main() -> None:
    arguments = parser().parse_args()
    store = Store.open(Path(arguments.store), verify=False)
    device = str(choose_device(arguments.device))
    given = {name: getattr(arguments, name) for name in ("d_sae", "steps", "batch", "lr", "precision", "seed")}
    cases = [
        Case(architecture, start, k, d_in=store.d_in, device=device, **given)
        for architecture in ("topk", "batch_topk")
        for k in arguments.k
        for start in ("own", "same")
    ]
    results = []
    with progress("Training", len(cases) * arguments.steps, "steps") as shown:
        for case in cases:
            source = StoredSource(
                store, arguments.layer, "standardise", case.batch, 64 * case.batch, 24, arguments.seed
            )
            results += compare(case, source, arguments.rows, lambda case=case: shown(1, label(case)))
    title = f"{arguments.store}, layer {arguments.layer}: d_in {store.d_in}, d_sae {arguments.d_sae}"
    title += f", {arguments.steps} steps of {arguments.batch} rows, lr {arguments.lr:g}, {arguments.precision}"
    title += f"; {results[0]['rows']} held-out rows"
    lines = [
        title,
        *table(results),
        "",
        json.dumps({"machine": environment(), "peers": versions(), "results": results}),
    ]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with arguments.out.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, results[0])
            writer.writeheader()
            writer.writerows(results)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="an activation store, as `sleave harvest` makes it")
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--d-sae", type=int, default=2560)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--k", type=lambda text: [int(k) for k in text.split(",")], default=[16, 32, 64])
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=16_384, help="held-out rows")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="the table, and beside it the same as .csv")
    return parser


def compare(case: Case, source: StoredSource, rows: int, shown: Callable[[], None]) -> list[dict[str, Any]]:
    """Train with every library in turn, and evaluate each on the first held-out rows."""
    first = from_the_same(case, source)
    trainers = {name: build(case, source, first) for name, build in LIBRARIES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    order = list(trainers)
    for _ in range(case.steps):
        x = source.next_batch().to(case.device)
        for name in order:
            began = time.perf_counter()
            trainers[name].step(x)
            if case.device != "cpu":
                torch.cuda.synchronize(case.device)
            seconds[name].append(time.perf_counter() - began)
        order.append(order.pop(0))
        shown()
    results = []
    for name, trainer in trainers.items():
        counted, base = (seconds[n][WARM if case.steps > WARM else 0 :] for n in (name, "sleave"))
        ratios = [a / b for a, b in zip(counted, base, strict=True)]
        times = {"seconds_per_step": statistics.median(counted), "ratio_to_sleave": statistics.median(ratios)}
        results.append({"library": name, **asdict(case), **evaluate(trainer.finish(), case, source, rows), **times})
    return results


@torch.no_grad()
def evaluate(infer: Infer, case: Case, source: StoredSource, rows: int) -> dict[str, float]:
    """Figures of held-out rows, in the units of training."""
    reconstruction, seen = Reconstruction(case.d_in), 0
    fired = torch.zeros(case.d_sae, device=case.device)
    for raw in islice(source.heldout(ROWS), max(1, rows // ROWS)):
        x = source.scaling.apply(raw).to(case.device)
        acts, x_hat = infer(x)
        reconstruction.update(x, x_hat)
        fired += (acts != 0).float().sum(dim=0)
        seen += len(x)
    never = int((fired == 0).sum())
    return {"rows": seen, "fvu": reconstruction.compute().fvu, "l0": float(fired.sum()) / seen, "never_fired": never}


def from_the_same(case: Case, source: StoredSource) -> Stepper:
    """sleave's training from the weights that all are to begin from."""
    return begin(run_settings(case, "random"), sample(source))


def run_settings(case: Case, initialisation: str) -> RunSettings:
    """The case in sleave's words."""
    autoencoder = {"kind": case.architecture, "d_sae": case.d_sae, "k": case.k, "initialisation": initialisation}
    training = {"steps": case.steps, "precision": case.precision, "device": case.device}
    return parse(
        RunSettings,
        {
            "seed": case.seed,
            "autoencoder": autoencoder,
            "constraint": {"kind": "none"},
            "optimizer": {"lr": case.lr},
            "training": training,
        },
        where="The benchmark",
    )


def sample(source: StoredSource) -> Tensor:
    """Scaled training rows to initialise by."""
    return source.sample(min(NUM_SAMPLES, source.num_train_rows))


def with_sleave(case: Case, source: StoredSource, first: Stepper) -> Trainer:
    """sleave's `Stepper`, by its loop's own schedules."""
    settings = run_settings(case, "random" if case.start == "same" else "data")
    stepper = begin(settings, sample(source))
    done = Progress.none(stepper)

    def finish() -> Infer:
        sae = fold(stepper.sae, torch.zeros(case.d_in), torch.ones(case.d_in)).to(case.device)
        return lambda x: ((acts := sae.encode(x)), sae.decode(acts))

    return Trainer(lambda x: advance(settings, stepper, done, x), finish)


def with_sae_lens(case: Case, source: StoredSource, first: Stepper) -> Trainer:
    """SAELens's `SAETrainer`, step by step as its `fit` does."""
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(case.seed)
    shape = {"d_in": case.d_in, "d_sae": case.d_sae, "k": case.k, "device": case.device}
    if case.architecture == "topk":
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(**shape))
    else:
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**shape))
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


def with_dictionary_learning(case: Case, source: StoredSource, first: Stepper) -> Trainer:
    """dictionary_learning's trainers, step by step as its `trainSAE` does."""
    # dictionary_learning imports nnsight wherever it reads language models, at import; nothing here does, and nnsight
    # would bring other versions of packages that sleave needs.
    stand_in = types.ModuleType("nnsight")
    stand_in.LanguageModel = object  # type: ignore[attr-defined]
    sys.modules.setdefault("nnsight", stand_in)
    from dictionary_learning.trainers import BatchTopKTrainer, TopKTrainer

    common = {
        "steps": case.steps,
        "activation_dim": case.d_in,
        "dict_size": case.d_sae,
        "k": case.k,
        "layer": 0,
        "lm_name": "",
        "lr": case.lr,
        "warmup_steps": 0,
        "seed": case.seed,
        "device": case.device,
    }
    if case.architecture == "topk":
        trainer = TopKTrainer(**common)
    else:
        trainer = BatchTopKTrainer(**common, threshold_start_step=min(1000, case.steps // 2))
    ae = trainer.ae
    if case.start == "same":
        copy_weights(first, ae.encoder.weight.t(), ae.encoder.bias, ae.decoder.weight.t(), ae.b_dec)
    # Its step 0 replaces b_dec by the first batch's geometric median.
    number = iter(range(1 if case.start == "same" else 0, case.steps + 1))

    def step(x: Tensor) -> None:
        with autocast(torch.device(case.device), case.precision):  # as trainSAE does on GPUs
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


LIBRARIES: dict[str, Callable[[Case, StoredSource, Stepper], Trainer]] = {
    "sleave": with_sleave,
    "SAELens": with_sae_lens,
    "dictionary_learning": with_dictionary_learning,
}


def table(results: list[dict[str, Any]]) -> list[str]:
    """A line for each training."""
    lines = ["architecture   k  start  library                FVU     L0  never fired   ms/step  of sleave's"]
    for r in results:
        lines.append(
            f"{r['architecture']:10s} {r['k']:5d}  {r['start']:5s}  {r['library']:19s} {r['fvu']:6.4f} {r['l0']:6.1f} "
            f"{r['never_fired']:12d} {1000 * r['seconds_per_step']:9.1f}  x{r['ratio_to_sleave']:.2f}"
        )
    return lines


def label(case: Case) -> str:
    """The case in a few words."""
    return f"{case.architecture}, k {case.k}, from {case.start} weights"


def versions() -> dict[str, str | None]:
    """Of the other libraries."""

    def of(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {package: of(package) for package in ("sae-lens", "dictionary-learning")}


if __name__ == "__main__":
    main()
