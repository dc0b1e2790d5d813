"""Training from the first step, or from the last checkpoint, to a saved autoencoder."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.activations.manifest import stored_dtype
from sleave.activations.source import ActivationSource
from sleave.autoencoder.folding import fold
from sleave.autoencoder.initialisation import NUM_SAMPLES, initial_autoencoder
from sleave.autoencoder.model import ACTIVE, SparseAutoencoder
from sleave.base.device import check_compiler, choose_device, choose_dtype, say_if_slow
from sleave.base.environment import peak_memory
from sleave.base.errors import SleaveError
from sleave.base.files import digest, dtype_name
from sleave.base.progress import progress, say
from sleave.base.ranks import Mesh
from sleave.interop.writing import save
from sleave.penalties.penalty import Penalty
from sleave.training.checkpoint import Progress, read_checkpoint, whole_autoencoder, write_checkpoint
from sleave.training.interruption import Interrupted, stop_on_signal
from sleave.training.l0_control import L0Controller
from sleave.training.run import RunDirectory
from sleave.training.schedules import learning_rate, warmup
from sleave.training.settings import RunSettings
from sleave.training.step import Stepper, StepResult
from sleave.training.trackers import Logger, open_trackers

LAST_STEPS = 100  # the papers report averages over the last 100 steps
MISSED = 0.05  # of the target: how far from it L0 may end before that is said


def train(
    settings: RunSettings, source: ActivationSource, run: RunDirectory, mesh: Mesh | None = None
) -> dict[str, Any]:
    """Train an autoencoder in a run directory that has begun; goes on from its checkpoint if there is one.

    Args:
        settings: of the run.
        source: of the whole batches, the same on every rank.
        run: where the first rank writes, and all read.
        mesh: the processes that take every step together.

    Returns:
        the summary that also goes to results.json under `training`; nothing but on the first process.

    Raises:
        SleaveError: the loss or the activations are not finite, the disk is full, ...; the last checkpoint stays.
        Interrupted: a signal asked to stop; everything is saved.
    """
    mesh = mesh or Mesh()
    stepper = _build(settings, source, mesh)
    done = Progress.none(stepper)
    if run.checkpoint_file.is_file():
        done = read_checkpoint(run.checkpoint_file, stepper, source)
    if not mesh.everyone.all(done.step == mesh.everyone.number_of_first(done.step)):
        raise SleaveError(
            f"The first process goes on at another step than this one (= {done.step}): they do not see the same "
            f"`{run.path}`. Put it where all machines see it."
        )
    if done.step:
        say(f"Going on at step {done.step} of {settings.training.steps} in {run.path}")
    _steps(settings, source, run, stepper, done)
    sae = whole_autoencoder(stepper)
    summary = _finish(settings, source, run, stepper, sae, done) if mesh.everyone.first else {}
    mesh.everyone.wait()
    return summary


def _finish(
    settings: RunSettings,
    source: ActivationSource,
    run: RunDirectory,
    stepper: Stepper,
    sae: SparseAutoencoder,
    done: Progress,
) -> dict[str, Any]:
    run.save_scaling(source.scaling)
    if stepper.penalty is not None and stepper.penalty.chooses and stepper.penalty.pairs is not None:
        run.save_pairs(stepper.penalty.pairs)
    save(
        fold(sae, source.scaling.shift, source.scaling.scale),
        run.sae,
        {**source.metadata, "training_tokens": done.rows},
    )
    summary = _summary(settings, run, stepper)
    run.add_results("training", summary)
    return summary


def _build(settings: RunSettings, source: ActivationSource, mesh: Mesh) -> Stepper:
    rows = max(NUM_SAMPLES, settings.autoencoder.d_sae)
    if source.num_train_rows is not None:
        rows = min(rows, source.num_train_rows)
    return begin(settings, source.sample(rows), mesh)


def begin(settings: RunSettings, sample: Float[Tensor, "rows d_in"], mesh: Mesh | None = None) -> Stepper:
    """What the settings describe, before its first step; sets torch's own seed.

    Args:
        settings: of the run.
        sample: scaled training rows to initialise by, `NUM_SAMPLES` or more if there are as many.
        mesh: the processes that take every step together; all begin from the first one's weights.

    Raises:
        SleaveError: no such device here, or k is above d_sae.
    """
    device = choose_device(settings.training.device)
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    mesh = mesh or Mesh()
    parted = mesh.features.size > 1  # then no device may have room for all of it
    sae = initial_autoencoder(settings.autoencoder, sample if parted else sample.to(device), generator)
    penalty: Penalty | None = settings.constraint.build(sae.d_in)
    sparsity, controller = settings.sparsity, None
    if sparsity.target_l0 is not None:
        lr, steps = settings.optimizer.lr, settings.training.steps
        controller = L0Controller(sparsity.target_l0, sparsity.weight, steps, lr)
    for tensor in sae.state_dict().values():
        mesh.everyone.take_first_(tensor)
    if parted:
        sae.keep_features(mesh.features.part(sae.d_sae))
        sae.to(device)
    if settings.training.compile:
        check_compiler("training.compile", device)
    say_if_slow("training.precision", choose_dtype(settings.training.precision, device), device)
    return Stepper(sae, settings.optimizer, settings.training, penalty, settings.clip_norm, controller, mesh)


def advance(settings: RunSettings, stepper: Stepper, done: Progress, x: Float[Tensor, "batch d_in"]) -> StepResult:
    """One step, by the schedules and with the dead features that the run has come to; `done` goes on with it.

    Raises:
        SleaveError: see `Stepper.step`.
    """
    control = stepper.controller
    if control is None:
        weight = settings.sparsity.weight * warmup(done.step, settings.sparsity.warmup_steps)
    else:
        weight = control.weight
    result = stepper.step(
        x,
        lr=learning_rate(settings.optimizer, done.step, settings.training.steps),
        sparsity_weight=weight,
        constraint_scale=warmup(done.step, getattr(settings.constraint, "warmup_steps", 0)),
        dead=done.since_fired >= settings.training.dead_after_tokens,
    )
    if control is not None:
        control.update(result.l0, result.sparsity / max(result.variance, 1e-30))
    done.step += 1
    done.rows += result.rows
    done.since_fired = torch.where(result.fired > 0, 0, done.since_fired + result.rows)
    return result


def _steps(
    settings: RunSettings, source: ActivationSource, run: RunDirectory, stepper: Stepper, done: Progress
) -> None:
    steps = settings.training.steps
    mesh = stepper.mesh
    loggers: list[Logger] = []
    if mesh.everyone.first:
        loggers = [*open_trackers(settings.training.trackers, run, done.step), run.open_metrics(done.step)]
    try:
        with stop_on_signal() as request, progress(f"Training {run.path}", steps, "steps", done.step) as shown:
            while done.step < steps:
                began = time.perf_counter()
                lr = learning_rate(settings.optimizer, done.step, steps)
                x = source.next_batch(mesh.rows, settings.training.accumulation).to(stepper.device)
                waited = time.perf_counter() - began
                result = advance(settings, stepper, done, x)
                record = _record(result, stepper, done, settings.training.dead_after_tokens)
                record |= {"lr": lr, "seconds": time.perf_counter() - began, "waiting": waited}
                for logger in loggers:
                    logger.log(record)
                shown(1, note(result))
                asked = mesh.everyone.any(request.signal_number is not None)  # one of them: all stop after this step
                stop = (request.signal_number or signal.SIGTERM) if asked else None
                due = done.step % settings.training.checkpoint_every == 0 or done.step == steps or stop is not None
                if due:
                    write_checkpoint(run.checkpoint_file, stepper, source, done)
                    mesh.everyone.wait()  # who stops first has torchrun stop the others
                if stop is not None and done.step < steps:
                    raise Interrupted(
                        stop, f"Stopped at step {done.step} of {steps} and saved. The same command goes on from there."
                    )
    finally:
        for logger in loggers:
            logger.close()


def note(result: StepResult) -> str:
    """What a progress bar says of a step."""
    named = {"sparsity": result.sparsity, "auxiliary": result.auxiliary, "constraint": result.constraint}
    parts = " + ".join([f"{result.mse:.4g}", *(f"{value:.3g} {name}" for name, value in named.items() if value)])
    return f"loss {result.loss:.4g} = {parts}, FVU {result.fvu:.3f}, L0 {result.l0:.1f}"


def _record(result: StepResult, stepper: Stepper, done: Progress, dead_after: int) -> dict[str, float]:
    record: dict[str, float] = {
        "step": done.step,
        "rows": done.rows,
        "loss": result.loss,
        "mse": result.mse,
        "fvu": result.fvu,
        "l1": result.l1,
        "l0": result.l0,
        "sparsity": result.sparsity,
        "constraint": result.constraint,
        "active": int((result.mean_act > ACTIVE).sum()),
        "dead": int((done.since_fired >= dead_after).sum()),
    }
    if stepper.controller is not None:
        record["sparsity_weight"] = result.sparsity_weight
    if result.auxiliary:
        record["auxiliary"] = result.auxiliary
    if stepper.scaler.is_enabled():
        record |= {"loss_scale": stepper.scaler.get_scale(), "updated": int(result.updated)}
    if stepper.penalty is not None:
        record |= {f"constraint_{name}": value for name, value in stepper.penalty.figures().items()}
    return record


def _summary(settings: RunSettings, run: RunDirectory, stepper: Stepper) -> dict[str, Any]:
    metrics: list[Mapping[str, float]] = list(run.metrics())
    last = metrics[-LAST_STEPS:]
    numbers = [name for name in last[-1] if name not in ("step", "rows", "seconds", "waiting", "lr")]
    averages = {name: statistics.fmean(m[name] for m in last if name in m) for name in numbers}
    recipe = settings.model_dump(mode="json", exclude={"seed": True, "evaluation": True, "training": {"shards"}})
    recipe["training"]["precision"] = precision = dtype_name(stepper.dtype)
    summary = {
        "steps": metrics[-1]["step"],
        "rows": metrics[-1]["rows"],
        "seconds": sum(m["seconds"] for m in metrics),
        "seconds_per_step": statistics.median(m["seconds"] for m in metrics),
        "waiting_share": sum(m.get("waiting", 0.0) for m in metrics) / sum(m["seconds"] for m in metrics),
        "peak_memory_bytes": peak_memory(),
        "architecture": stepper.sae.architecture,
        "constraint": settings.constraint.kind,
        "seed": settings.seed,
        "precision": precision,
        "recipe": digest(recipe),
        "activations": _activations(settings),
        "d_in": stepper.sae.d_in,
        "d_sae": settings.autoencoder.d_sae,
        f"last_{min(LAST_STEPS, len(last))}_steps": averages,
    }
    if stepper.controller is not None:
        target, reached, weight = stepper.controller.target, averages["l0"], last[-1]["sparsity_weight"]
        summary["target_l0"] = {"target": target, "reached": reached, "weight": weight}
        if abs(reached / target - 1) > MISSED:
            say(_missed(target, reached, weight, len(last)))
    return summary


def _missed(target: float, reached: float, weight: float, steps: int) -> str:
    begun = f"L0 was {reached:.4g} over the last {steps} steps, and not sparsity.target_l0 (= {target:g})"
    if reached > target:
        return (
            f"{begun}, with a weight of {weight:.3g} in the end. Train for more steps, or with a higher optimizer.lr."
        )
    return (
        f"{begun}, with a weight of {weight:.3g} in the end. If that is next to nothing, no weight makes it so dense: "
        "begin with a higher autoencoder.firing_rate, train for more steps, or lower the target."
    )


def _activations(settings: RunSettings) -> str:
    """Tells apart what is read, as far as the settings have it: not where it is kept, nor on what it is computed."""
    whole = settings.model_dump(mode="json")
    read = settings.model_dump(
        mode="json",
        include={"model": True, "layer": True, "corpus": True, "harvest": True, "buffer": {"scaling"}},
        exclude={"model": {"device", "compile", "layers"}, "harvest": {"store", "batch_tokens"}},
    )
    if "model" in read:
        model = whole["model"]
        read["model"]["dtype"] = stored_dtype(model["dtype"], model["device"], whole["harvest"]["store"])
    return digest(read)
