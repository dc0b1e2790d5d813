"""sleave: sparse autoencoders whose features do not say the same thing twice.

import sleave

sae = sleave.load("runs/mine")                 # an autoencoder of raw activations
acts = sae.encode(x)                           # (batch, d_sae)

penalty = sleave.InformedOrthogonality()       # in any training loop
loss = loss + penalty(acts)

recipe = sleave.load_recipe("recipes/quickstart.toml", {"constraint": {"weight": 0.2}})
runs = sleave.train(recipe, "runs/mine")       # what `sleave train` does
results = sleave.evaluate(runs[0])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from sleave.activations.scaling import Scaling
    from sleave.activations.store import Store
    from sleave.auditing.audit import audit_rows
    from sleave.auditing.results import Audit
    from sleave.autoencoder.batch_topk import BatchTopKAutoencoder
    from sleave.autoencoder.folding import fold
    from sleave.autoencoder.gated import GatedAutoencoder
    from sleave.autoencoder.jumprelu import JumpReLUAutoencoder
    from sleave.autoencoder.matryoshka import MatryoshkaAutoencoder
    from sleave.autoencoder.model import SparseAutoencoder
    from sleave.autoencoder.relu import ReLUAutoencoder
    from sleave.autoencoder.topk import TopKAutoencoder
    from sleave.base.errors import SleaveError
    from sleave.codes.codes import Codes
    from sleave.dependence.mutual_information import Estimation, mutual_information
    from sleave.dependence.pairs import Pairs
    from sleave.dependence.scores import PairScores
    from sleave.dependence.selection import top_pairs
    from sleave.estimator import SparseAutoencoderEstimator as SparseAutoencoderEstimator
    from sleave.evaluation.evaluate import evaluate_rows
    from sleave.interop.live import from_live
    from sleave.interop.reading import load
    from sleave.interop.trainers import attach
    from sleave.interop.writing import save
    from sleave.jobs import audit, evaluate, harvest, train
    from sleave.penalties.decoder import DecoderOrthogonality
    from sleave.penalties.guided import GradientOrthogonality, MIOrtho, TemporalOrthogonality
    from sleave.penalties.information import InformationPenalty
    from sleave.penalties.informed import InformedOrthogonality
    from sleave.penalties.orthogonality import FullOrthogonality, SelectiveOrthogonality
    from sleave.penalties.penalty import Penalty
    from sleave.recipe import Recipe, load_recipe
    from sleave.training.run import RunDirectory

# Where each public name lives; imported when first asked for, so that `import sleave` does not wait for torch.
_HOME = {
    "Audit": "auditing.results",
    "BatchTopKAutoencoder": "autoencoder.batch_topk",
    "Codes": "codes.codes",
    "DecoderOrthogonality": "penalties.decoder",
    "Estimation": "dependence.mutual_information",
    "FullOrthogonality": "penalties.orthogonality",
    "GatedAutoencoder": "autoencoder.gated",
    "GradientOrthogonality": "penalties.guided",
    "InformationPenalty": "penalties.information",
    "InformedOrthogonality": "penalties.informed",
    "JumpReLUAutoencoder": "autoencoder.jumprelu",
    "MIOrtho": "penalties.guided",
    "MatryoshkaAutoencoder": "autoencoder.matryoshka",
    "PairScores": "dependence.scores",
    "Pairs": "dependence.pairs",
    "Penalty": "penalties.penalty",
    "ReLUAutoencoder": "autoencoder.relu",
    "Recipe": "recipe",
    "RunDirectory": "training.run",
    "Scaling": "activations.scaling",
    "SelectiveOrthogonality": "penalties.orthogonality",
    "SleaveError": "base.errors",
    "SparseAutoencoder": "autoencoder.model",
    "SparseAutoencoderEstimator": "estimator",
    "Store": "activations.store",
    "TemporalOrthogonality": "penalties.guided",
    "TopKAutoencoder": "autoencoder.topk",
    "attach": "interop.trainers",
    "audit": "jobs",
    "audit_rows": "auditing.audit",
    "evaluate": "jobs",
    "evaluate_rows": "evaluation.evaluate",
    "fold": "autoencoder.folding",
    "from_live": "interop.live",
    "harvest": "jobs",
    "load": "interop.reading",
    "load_recipe": "recipe",
    "mutual_information": "dependence.mutual_information",
    "save": "interop.writing",
    "top_pairs": "dependence.selection",
    "train": "jobs",
}

# All of them but SparseAutoencoderEstimator, without whose optional package `from sleave import *` would fail.
__all__ = [
    "Audit",
    "BatchTopKAutoencoder",
    "Codes",
    "DecoderOrthogonality",
    "Estimation",
    "FullOrthogonality",
    "GatedAutoencoder",
    "GradientOrthogonality",
    "InformationPenalty",
    "InformedOrthogonality",
    "JumpReLUAutoencoder",
    "MIOrtho",
    "MatryoshkaAutoencoder",
    "PairScores",
    "Pairs",
    "Penalty",
    "ReLUAutoencoder",
    "Recipe",
    "RunDirectory",
    "Scaling",
    "SelectiveOrthogonality",
    "SleaveError",
    "SparseAutoencoder",
    "Store",
    "TemporalOrthogonality",
    "TopKAutoencoder",
    "attach",
    "audit",
    "audit_rows",
    "evaluate",
    "evaluate_rows",
    "fold",
    "from_live",
    "harvest",
    "load",
    "load_recipe",
    "mutual_information",
    "save",
    "top_pairs",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sleave' has no attribute {name!r}")
    home = import_module(f"sleave.{_HOME[name]}")
    value = getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
