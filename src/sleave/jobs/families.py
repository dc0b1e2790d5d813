"""The families of metrics, and what each needs of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sleave.activations.scaling import Scaling
from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.progress import Advance, progress
from sleave.evaluation.evaluate import evaluate_rows
from sleave.interop.reading import load
from sleave.jobs.training import finished_store, layer_of, open_source
from sleave.recipe import EvaluationSettings, Recipe
from sleave.training.run import RunDirectory

if TYPE_CHECKING:
    from sleave.language.passages import Passage
    from sleave.language.settings import ModelSettings
    from sleave.language.whole import WholeModel


@dataclass(frozen=True)
class Subject:
    """A finished run, and what is read of it only when a family asks.

    Attributes:
        run: the run.
        recipe: its settings, with those of the evaluation.
    """

    run: RunDirectory
    recipe: Recipe

    @cached_property
    def sae(self) -> SparseAutoencoder:
        """The autoencoder, which reads raw activations."""
        return load(self.run.path)

    @cached_property
    def scaling(self) -> Scaling:
        """From raw activations to those it was trained on."""
        return self.run.scaling()

    @property
    def layer(self) -> int:
        """The layer that it reads."""
        return layer_of(self.recipe)

    @property
    def model(self) -> WholeModel:
        """The language model; one for all runs on it."""
        return _model(self.recipe.model.model_copy(update={"layers": (0,)}))

    @cached_property
    def passages(self) -> list[Passage]:
        """The labelled passages that its training never saw."""
        from sleave.language.passages import passages, unseen_by

        unseen = unseen_by(self.recipe.corpus, self.recipe.harvest)
        return passages(self.recipe.evaluation.passages, self.model.tokenizer, unseen)


@lru_cache(maxsize=1)
def _model(settings: ModelSettings) -> WholeModel:
    from sleave.language.whole import WholeModel

    return WholeModel.load(settings)


@dataclass(frozen=True)
class Family:
    """A family of metrics.

    Attributes:
        title: its name for people.
        says: what it measures, in a line.
        settings: what decides its result, as JSON has it: a part measured with other settings is measured anew.
        measure: what goes into results.json; `status` is "ok" or says why there are no figures, `why` explains it.
    """

    title: str
    says: str
    settings: Callable[[EvaluationSettings], dict[str, Any]]
    measure: Callable[[Subject], dict[str, Any]]


def _heldout(subject: Subject) -> dict[str, Any]:
    recipe = subject.recipe
    batches, rows = _heldout_rows(recipe)
    most = recipe.evaluation.max_rows
    with progress(f"Evaluating {subject.run.path}", min(rows, most), "rows") as advance:
        return evaluate_rows(subject.sae, _counted(batches, advance), subject.scaling, most).to_dict()


def _fidelity(subject: Subject) -> dict[str, Any]:
    from sleave.behaviour.fidelity import fidelity, heldout_contexts

    recipe = subject.recipe
    documents = recipe.evaluation.fidelity.documents
    texts = heldout_contexts(recipe.corpus, recipe.harvest, subject.model.tokenizer, documents)
    return fidelity(subject.sae, subject.model, subject.layer, texts, recipe.harvest.max_norm_ratio).to_dict()


def _probing(subject: Subject) -> dict[str, Any]:
    from sleave.behaviour.probing import probing

    settings = subject.recipe.evaluation.probing
    return probing(subject.sae, subject.model, subject.layer, subject.passages, settings).to_dict()


def _absorption(subject: Subject) -> dict[str, Any]:
    from sleave.behaviour.absorption import absorption

    return absorption(subject.sae, subject.model, subject.layer, subject.recipe.evaluation.absorption).to_dict()


def _ground_truth(subject: Subject) -> dict[str, Any]:
    from sleave.ground_truth.toy import ground_truth

    return ground_truth(subject.recipe, subject.recipe.evaluation.ground_truth).to_dict()


def _counted(batches: Iterator[Tensor], advance: Advance) -> Iterator[Tensor]:
    for batch in batches:
        advance(len(batch), "")  # before: whoever has enough rows does not come back
        yield batch


def _heldout_rows(recipe: Recipe) -> tuple[Iterator[Tensor], float]:
    """Raw held-out rows, and how many there are (infinity, if that is not known); nothing is harvested for it."""
    if recipe.harvest.store is None:
        return open_source(recipe).heldout(recipe.evaluation.batch_rows), math.inf
    rows = finished_store(recipe, Path(recipe.harvest.store)).layer(layer_of(recipe), "heldout")
    return (block.float() for block in rows.blocks(recipe.evaluation.batch_rows)), len(rows)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "heldout": Family(
            "held-out rows",
            "reconstruction, sparsity, utilisation, and how entangled codes and directions are",
            lambda settings: settings.model_dump(mode="json", include={"max_rows"}),
            _heldout,
        ),
        "fidelity": Family(
            "fidelity",
            "what the language model loses when it goes on from reconstructions",
            lambda settings: settings.fidelity.model_dump(mode="json"),
            _fidelity,
        ),
        "probing": Family(
            "sparse probes",
            "how well one, two or five features tell a passage's topic",
            lambda settings: settings.model_dump(mode="json", include={"probing", "passages"}),
            _probing,
        ),
        "absorption": Family(
            "absorption",
            "how often features of a word's first letter are silent because another stands in",
            lambda settings: settings.absorption.model_dump(mode="json"),
            _absorption,
        ),
        "ground_truth": Family(
            "known features",
            "how well the same architecture and constraint find synthetic features that are known",
            lambda settings: settings.ground_truth.model_dump(mode="json"),
            _ground_truth,
        ),
    }
)
