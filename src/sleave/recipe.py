"""A recipe: one TOML file that names everything a run needs, or what it changes of another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator

from sleave.activations.settings import BufferSettings
from sleave.autoencoder.settings import CommonAutoencoderSettings
from sleave.base.errors import SleaveError
from sleave.base.files import read_toml
from sleave.base.settings import parse
from sleave.behaviour.absorption import AbsorptionSettings
from sleave.behaviour.fidelity import FidelitySettings
from sleave.behaviour.probing import ProbingSettings
from sleave.evaluation.settings import HeldoutSettings
from sleave.ground_truth.settings import GroundTruthSettings
from sleave.language.passages import PassageSettings
from sleave.language.settings import CorpusSettings, HarvestSettings, ModelSettings
from sleave.training.settings import RunSettings
from sleave.unlearning.settings import UnlearningSettings

# What stays of a section whose `kind` is changed: its other values were meant for another kind.
KEPT = {"constraint": frozenset[str](), "autoencoder": frozenset(CommonAutoencoderSettings.model_fields)}


class EvaluationSettings(HeldoutSettings):
    """What is measured once a run is finished, and on how much."""

    passages: PassageSettings = PassageSettings()
    fidelity: FidelitySettings = FidelitySettings()
    probing: ProbingSettings = ProbingSettings()
    absorption: AbsorptionSettings = AbsorptionSettings()
    ground_truth: GroundTruthSettings = GroundTruthSettings()
    unlearning: UnlearningSettings = UnlearningSettings()


class Recipe(RunSettings):
    """Everything a run needs: model, text, activations, autoencoder, constraint, training, evaluation."""

    model: ModelSettings
    corpus: Annotated[tuple[CorpusSettings, ...], Field(min_length=1)]
    """The text: one or more of packaged, hub and file corpora; on the command line as JSON, such as
    '[{"kind": "files", "paths": ["news/*.jsonl"], "text_field": "body"}]' (a .txt file is one document, and so is a
    row of .jsonl, .csv or .parquet)."""
    harvest: HarvestSettings = HarvestSettings()
    buffer: BufferSettings = BufferSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    layer: int | None = None
    """Which of model.layers to train on; all of them, each in a folder of its own, when absent."""

    @field_validator("layer")
    @classmethod
    def _is_read(cls, layer: int | None, info: Any) -> int | None:
        model: ModelSettings | None = info.data.get("model")  # None if it has mistakes of its own
        if layer is not None and model is not None and layer not in model.layers:
            raise ValueError(f"must be one of model.layers (= {list(model.layers)})")
        return layer

    def to_dict(self) -> dict[str, Any]:
        """As TOML has it: nested, without what is not set."""
        return self.model_dump(mode="json", exclude_none=True)


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe and change some of it.

    Args:
        path: the TOML file.
        overrides: nested values that replace the file's. When the constraint's `kind` changes, its section begins
            from that kind's defaults, since the file's other values were meant for another kind; when the
            autoencoder's does, what every kind has stays.

    Raises:
        SleaveError: the file is missing or not TOML; or lists all mistakes in it, each with its key path.
    """
    if Path(path).is_dir():
        raise SleaveError(f"`{path}` is a folder. Give one recipe in it, a TOML file.")
    return recipe_from(_read(Path(path)), overrides or {}, where=f"The recipe `{path}`")


def _read(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's values, over those of the recipe that its `extends` names (a path from its own folder)."""
    if path.resolve() in below:
        raise SleaveError(f"The recipe `{below[0]}` extends itself, by way of `{below[-1]}`.")
    if below and not path.is_file():
        raise SleaveError(f"The recipe `{below[-1]}` extends `{path}`, which does not exist.")
    values = dict(read_toml(path))
    if (base := values.pop("extends", None)) is None:
        return values
    if not isinstance(base, str):
        raise SleaveError(f"The recipe `{path}` has extends = {base!r}; it must be the path of another recipe.")
    return merged(_read(path.parent / base, (*below, path.resolve())), values)


def recipe_from(values: Mapping[str, Any], overrides: Mapping[str, Any], *, where: str) -> Recipe:
    """A recipe from nested values; see `load_recipe`."""
    return parse(Recipe, merged(values, overrides), where=where + (" with its overrides" if overrides else ""))


def merged(
    values: Mapping[str, Any], overrides: Mapping[str, Any], kept: Mapping[str, frozenset[str]] = KEPT
) -> dict[str, Any]:
    """`values` with `overrides` laid over them, section by section, however deep.

    Args:
        values: nested.
        overrides: nested; each of them is in what comes out.
        kept: what stays of a section whose `kind` they change; all stays of sections that it does not name.
    """
    result = dict(values)
    for key, value in overrides.items():
        section = result.get(key)
        if not isinstance(value, Mapping) or not isinstance(section, Mapping):
            result[key] = value
        elif key in kept and value.get("kind", section.get("kind")) != section.get("kind"):
            result[key] = {name: stays for name, stays in section.items() if name in kept[key]} | dict(value)
        else:
            result[key] = merged(section, value, kept)
    return result
