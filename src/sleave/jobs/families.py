"""The families of metrics, and what each needs of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sleave.activations.rows import Rows
from sleave.activations.scaling import Scaling
from sleave.auditing.audit import audit_rows
from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.progress import Advance, progress, say
from sleave.evaluation.evaluate import evaluate_rows
from sleave.interop.reading import load
from sleave.jobs.auditing import about_audit, token_texts_of, write_audit
from sleave.jobs.training import finished_store, layer_of, open_source
from sleave.recipe import EvaluationSettings, Recipe
from sleave.training.run import RunDirectory

if TYPE_CHECKING:
    from sleave.language.passages import Passage, PassageSettings
    from sleave.language.settings import CorpusSettings, HarvestSettings, ModelSettings
    from sleave.language.whole import WholeModel
    from sleave.unlearning.questions import Questions
    from sleave.unlearning.settings import MultipleChoiceSettings, UnlearningSettings


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
        return _model(self._model_settings)

    @property
    def passages(self) -> list[Passage]:
        """The labelled passages that its training never saw."""
        recipe = self.recipe
        return _passages(self._model_settings, recipe.evaluation.passages, recipe.corpus, recipe.harvest)

    def topics(self) -> Questions:
        """What is asked about the topics of the passages; the model reads them once for all runs on the same layer."""
        recipe = self.recipe
        asked = recipe.evaluation.unlearning.model_copy(update={"topics": (), "controls": True})
        return _topics(
            self._model_settings, recipe.evaluation.passages, recipe.corpus, recipe.harvest, self.layer, asked
        )

    def answers(self, asked: MultipleChoiceSettings) -> Questions:
        """Multiple-choice questions, of which it is known whether the model knows the answers."""
        return _answers(self._model_settings, self.recipe.harvest.max_norm_ratio, self.layer, asked)

    @property
    def _model_settings(self) -> ModelSettings:
        return self.recipe.model.model_copy(update={"layers": (0,)})


# What takes long to read is kept for the next run of the same command.
@lru_cache(maxsize=1)
def _model(settings: ModelSettings) -> WholeModel:
    from sleave.language.whole import WholeModel

    say(f"Loading {settings.name}")
    return WholeModel.load(settings)


@lru_cache(maxsize=1)
def _passages(
    model: ModelSettings, settings: PassageSettings, corpus: tuple[CorpusSettings, ...], harvest: HarvestSettings
) -> list[Passage]:
    from sleave.language.passages import passages, unseen_by

    return passages(settings, _model(model).tokenizer, unseen_by(corpus, harvest))


@lru_cache(maxsize=1)
def _topics(
    model: ModelSettings,
    settings: PassageSettings,
    corpus: tuple[CorpusSettings, ...],
    harvest: HarvestSettings,
    layer: int,
    asked: UnlearningSettings,
) -> Questions:
    from sleave.unlearning.topics import read_topics

    read = _passages(model, settings, corpus, harvest)
    return read_topics(_model(model), read, layer, asked, harvest.max_norm_ratio)


@lru_cache(maxsize=1)
def _answers(
    model: ModelSettings, max_norm_ratio: float | None, layer: int, asked: MultipleChoiceSettings
) -> Questions:
    from sleave.language.questions import read_question_files
    from sleave.unlearning.multiple_choice import read_multiple_choice

    forget, retain = read_question_files(asked.forget), read_question_files(asked.retain)
    return read_multiple_choice(_model(model), forget, retain, layer, asked, max_norm_ratio)


@dataclass(frozen=True)
class Family:
    """A family of metrics.

    Attributes:
        title: its name for people.
        says: what it measures, in a line.
        settings: what decides its result, as JSON has it: a part measured with other settings is measured anew.
        measure: what goes into results.json; `status` is "ok" or says why there are no figures, `why` explains it.
        possible: whether the packages and the store are there that it needs.
    """

    title: str
    says: str
    settings: Callable[[EvaluationSettings], dict[str, Any]]
    measure: Callable[[Subject], dict[str, Any]]
    possible: Callable[[Recipe], bool] = lambda recipe: True


def _heldout(subject: Subject) -> dict[str, Any]:
    recipe = subject.recipe
    settings = recipe.evaluation
    batches, documents, rows = _heldout_rows(recipe)
    with progress(f"Evaluating {subject.run.path}", min(rows, settings.max_rows), "rows") as advance:
        found = evaluate_rows(
            subject.sae,
            _counted(batches, advance),
            subject.scaling,
            settings.max_rows,
            documents=documents,
            groups=settings.groups,
        )
    return {"status": "ok", **found.to_dict()}


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


def _heldout_rows(recipe: Recipe) -> tuple[Iterator[Tensor], Tensor | None, float]:
    """Raw held-out rows, the document of each and how many there are (None and infinity, if that is not known).

    Nothing is harvested for it.
    """
    settings = recipe.evaluation
    if recipe.harvest.store is None:
        return open_source(recipe).heldout(settings.batch_rows), None, math.inf
    store = finished_store(recipe, Path(recipe.harvest.store))
    read = Rows.of_store(store, layer_of(recipe), ("heldout",), settings.max_rows)
    documents = None if read.origin is None else read.origin.document
    return read.blocks(settings.batch_rows), documents, read.count


def _unlearning(subject: Subject) -> dict[str, Any]:
    from sleave.behaviour.probes import NOT_INSTALLED, installed
    from sleave.jobs.kept import KeptTopics
    from sleave.unlearning.forgetting import check_topics, forget
    from sleave.unlearning.results import summarised
    from sleave.unlearning.topics import TooFewPassages

    if not installed():
        return NOT_INSTALLED.to_dict()
    settings = subject.recipe.evaluation.unlearning
    asked = settings.multiple_choice
    answers = None if asked is None else subject.answers(asked)  # first: it may have mistakes
    common = {"unlearning": {"topics", "multiple_choice"}}  # which do not decide the result of a topic
    how = subject.recipe.evaluation.model_dump(mode="json", include={"unlearning", "passages"}, exclude=common)
    kept = KeptTopics(subject.run.path / "unlearning.partial.json", how)
    try:
        check_topics(settings, sorted({p.topic for p in subject.passages if p.topic is not None}))
        topics = forget(subject.sae, subject.topics(), subject.scaling, settings, kept.done, kept.keep)
        found = asdict(summarised(topics))
    except TooFewPassages as error:
        found = {"status": "too_few_passages", "why": str(error)}
    if asked is not None and answers is not None:
        found["multiple_choice"] = asdict(summarised(forget(subject.sae, answers, subject.scaling, asked)))
    kept.drop()  # last: what follows the topics may take minutes, too
    return found


def _audit(subject: Subject) -> dict[str, Any]:
    """Writes audit.json into the run directory; results.json gets its summary."""
    recipe = subject.recipe
    if recipe.harvest.store is None:
        why = "An audit reads its rows more than once, so it needs them on disk: see `harvest.store`."
        return {"status": "no_store", "why": why}
    store = finished_store(recipe, Path(recipe.harvest.store))
    rows = Rows.of_store(store, subject.layer, ("heldout",), recipe.evaluation.max_rows)
    about = about_audit(str(subject.run.path), subject.sae, recipe, store, "heldout")
    found = audit_rows(subject.sae, rows, token_texts=token_texts_of(recipe), about=about)
    write_audit(subject.run.audit_file, found)
    return {"status": "ok", **asdict(found.summary)}


def _has_probes(recipe: Recipe) -> bool:
    from sleave.behaviour.probes import installed

    return installed()


def _has_synthetic_models(recipe: Recipe) -> bool:
    from sleave.ground_truth.world import installed

    return installed()


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "heldout": Family(
            "held-out rows",
            "reconstruction, sparsity, utilisation, and how entangled codes and directions are",
            lambda settings: settings.model_dump(mode="json", include={"max_rows", "groups"}),
            _heldout,
        ),
        "audit": Family(
            "audit",
            "the most entangled pairs of features, near-duplicates and suspects, with texts, in audit.json",
            lambda settings: settings.model_dump(mode="json", include={"max_rows"}),
            _audit,
            lambda recipe: recipe.harvest.store is not None,
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
            _has_probes,
        ),
        "absorption": Family(
            "absorption",
            "how often features of a word's first letter are silent because another stands in",
            lambda settings: settings.absorption.model_dump(mode="json"),
            _absorption,
            _has_probes,
        ),
        "ground_truth": Family(
            "known features",
            "how well the same architecture and constraint find synthetic features that are known",
            lambda settings: settings.ground_truth.model_dump(mode="json"),
            _ground_truth,
            _has_synthetic_models,
        ),
        "unlearning": Family(
            "unlearning",
            "how well clamping features takes a topic from the model's answers, within limits on what it costs",
            lambda settings: settings.model_dump(mode="json", include={"unlearning", "passages"}),
            _unlearning,
            _has_probes,
        ),
    }
)
