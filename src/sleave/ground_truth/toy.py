"""Training what a run trains, and the same without its constraint, where the true features are known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from sleave.activations.scaling import Moments, Scaling
from sleave.autoencoder.folding import fold
from sleave.autoencoder.initialisation import NUM_SAMPLES
from sleave.autoencoder.model import SparseAutoencoder, inference
from sleave.base.progress import Advance, progress
from sleave.behaviour.results import Intervals, Result
from sleave.evaluation.jackknife import quantile_of_t
from sleave.ground_truth.recovery import cosines, firing_f1, matching, uniqueness
from sleave.ground_truth.settings import GroundTruthSettings
from sleave.ground_truth.world import FEATURES, World, installed, make_world
from sleave.penalties.settings import NoConstraint
from sleave.training.checkpoint import Progress
from sleave.training.loop import advance, begin, note
from sleave.training.settings import RunSettings

BATCH = 512
ROWS = 65_536  # that are trained on, again and again
HELDOUT = 16_384
LR = 3e-3
SPARSITY = {"relu": 1.0, "gated": 1.5, "jumprelu": 0.5}  # weights of the sparsity term that bring L0 near the truth
MOST_TOP = 0.1  # of all pairs
MISSING = (
    "Known features are drawn by SAELens's `synthetic` package, which is not installed (or too old). "
    "Run: pip install 'sleave[synthetic]'."
)


@dataclass(frozen=True)
class Recovery:
    """One autoencoder beside the truth, on rows that it was not trained on.

    Attributes:
        mcc: mean |cosine| of true and learned directions after the best one-to-one matching.
        uniqueness: true features that are nearest to some learned one, per learned feature.
        f1: of matched features' firing, mean over true features.
        l0: learned features that fire on a row.
        fvu: fraction of variance unexplained.
        dead: learned features that never fire.
    """

    mcc: float
    uniqueness: float
    f1: float
    l0: float
    fvu: float
    dead: float


@dataclass(frozen=True)
class GroundTruth(Result):
    """How well known features are found: means over seeds.

    Attributes:
        seeds: how many worlds.
        features: true features; the autoencoder has as many.
        true_l0: of them, fire on a row.
        mcc, uniqueness, f1, l0, fvu, dead: see `Recovery`.
        baseline: the same without a constraint, on the same worlds; None if the run has none.
        gain: the figures minus the baseline's; None if the run has none.
        intervals: of the figures, 95%, by Student's t over seeds.
        gain_intervals: of the gains, paired by world.
    """

    seeds: int
    features: int
    true_l0: float
    mcc: float
    uniqueness: float
    f1: float
    l0: float
    fvu: float
    dead: float
    baseline: dict[str, float] | None
    gain: dict[str, float] | None
    intervals: Intervals
    gain_intervals: Intervals


def ground_truth(run: RunSettings, settings: GroundTruthSettings) -> GroundTruth | Result:
    """Train autoencoders of a run's architecture and constraint on activations made of known features.

    Args:
        run: what is taken of it: architecture and constraint with their settings (k is the true L0, rounded up, and
            pairs for each feature stay as many), warm-ups in proportion, the optimizer's kind. Directions begin at
            random: so few features fire on a row here that rows, with which the run's may begin, are the commonest
            features again and again.
        settings: how many, how long.

    Returns:
        the figures; or `not_installed`.
    """
    if not installed():
        return Result("not_installed", MISSING)
    kinds = [run] if isinstance(run.constraint, NoConstraint) else [run, without_constraint(run)]
    found: list[list[Recovery]] = [[] for _ in kinds]
    true_l0 = []
    with progress("Known features", len(kinds) * settings.seeds * settings.steps, "steps") as shown:
        for seed in range(settings.seeds):
            world = make_world(seed, ROWS + HELDOUT)
            true_l0.append(float((world.acts > 0).sum(dim=1).double().mean()))
            for results, kind in zip(found, kinds, strict=True):
                sae = train(toy_settings(kind, seed, settings.steps, math.ceil(true_l0[-1])), world.x[:ROWS], shown)
                results.append(recovery(sae, World(world.directions, world.x[ROWS:], world.acts[ROWS:])))
    own = [asdict(r) for r in found[0]]
    figures, intervals = _over_seeds(own)
    baseline = gain = None
    gain_intervals: Intervals = {}
    if len(found) == 2:
        others = [asdict(r) for r in found[1]]
        baseline = _over_seeds(others)[0]
        gain, gain_intervals = _over_seeds([{k: a[k] - b[k] for k in a} for a, b in zip(own, others, strict=True)])
    return GroundTruth(
        "ok",
        "",
        settings.seeds,
        FEATURES,
        fmean(true_l0),
        **figures,
        baseline=baseline,
        gain=gain,
        intervals=intervals,
        gain_intervals=gain_intervals,
    )


def without_constraint(run: RunSettings) -> RunSettings:
    """The same run with no constraint."""
    return run.model_copy(update={"constraint": NoConstraint()})


def toy_settings(run: RunSettings, seed: int, steps: int, true_l0: int) -> RunSettings:
    """A run's settings, fitted to the toy's width, length and sparsity."""
    pace = steps / run.training.steps

    def shortened(name: str, part: Any) -> dict[str, Any]:
        return {name: round(getattr(part, name) * pace)} if hasattr(part, name) else {}

    kind = run.autoencoder.kind
    target = None if run.sparsity.target_l0 is None else float(true_l0)
    k = {"k": true_l0} if hasattr(run.autoencoder, "k") else {}
    pairs = {}
    if hasattr(run.constraint, "top"):
        ratio = (run.autoencoder.d_sae - 1) / (FEATURES - 1)
        pairs = {"top": max(run.constraint.top, min(run.constraint.top * ratio, MOST_TOP))}
    return run.model_copy(
        update={
            "seed": seed,
            "autoencoder": run.autoencoder.model_copy(update={"d_sae": FEATURES, "initialisation": "random", **k}),
            "sparsity": run.sparsity.model_copy(
                update={
                    "weight": SPARSITY.get(kind, 0.0),
                    "target_l0": target,
                    **shortened("warmup_steps", run.sparsity),
                }
            ),
            "constraint": run.constraint.model_copy(update={**pairs, **shortened("warmup_steps", run.constraint)}),
            "optimizer": run.optimizer.model_copy(update={"lr": LR, **shortened("warmup_steps", run.optimizer)}),
            "training": run.training.model_copy(
                update={
                    "steps": steps,
                    "device": "cpu",
                    "precision": "float32",
                    "accumulation": 1,
                    "compile": False,
                    "dead_after_tokens": BATCH * 100,
                }
            ),
        }
    )


def train(settings: RunSettings, x: Tensor, shown: Advance) -> SparseAutoencoder:
    """Train on rows in random order; the autoencoder then reads them as they are."""
    moments = Moments.empty(x.shape[1])
    moments.update(x)
    scaling = Scaling.from_moments(moments, "standardise")
    with torch.random.fork_rng(devices=[]):  # `begin` sets torch's own seed
        stepper = begin(settings, scaling.apply(x[:NUM_SAMPLES]))
        done, batches = Progress.none(stepper), _batches(x, settings.seed)
        while done.step < settings.training.steps:
            shown(1, note(advance(settings, stepper, done, scaling.apply(next(batches)))))
    return fold(stepper.sae.eval(), scaling.shift, scaling.scale)


def recovery(sae: SparseAutoencoder, world: World) -> Recovery:
    """What an autoencoder has found of a world's features."""
    with inference(sae):
        codes = sae.encode(world.x)
        error = (sae.decode(codes) - world.x).double().square().sum()
    cosine = cosines(sae.W_dec.detach(), world.directions)
    learned, true = matching(cosine)
    fired = codes > 0
    spread = (world.x - world.x.mean(dim=0)).double().square().sum()
    return Recovery(
        mcc=float(cosine[learned, true].mean()),
        uniqueness=uniqueness(cosine),
        f1=float(firing_f1(fired[:, learned], world.acts[:, true] > 0).mean()),
        l0=float(fired.sum() / len(fired)),
        fvu=float(error / spread),
        dead=float((~fired.any(dim=0)).sum()),
    )


def _batches(x: Tensor, seed: int) -> Iterator[Tensor]:
    """All rows in a random order, again and again."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for some in torch.randperm(len(x), generator=generator).split(BATCH):
            yield x[some]


def _over_seeds(found: Sequence[dict[str, float]]) -> tuple[dict[str, float], Intervals]:
    """Means, and their 95% intervals by Student's t."""
    reach = quantile_of_t(len(found) - 1) / math.sqrt(len(found))
    means = {name: fmean(f[name] for f in found) for name in found[0]}
    half = {name: reach * stdev(f[name] for f in found) for name in found[0]}
    return means, {name: (mean - half[name], mean + half[name]) for name, mean in means.items()}
