"""Settings: frozen, strict about unknown keys, documented by their attribute docstrings (which become `--help`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sleave.base.errors import SleaveError, nearest

DType = Literal["float32", "bfloat16", "float16"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


class Settings(BaseModel):
    """Base of every settings class."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


def parse(kind: type[S], values: Mapping[str, Any], *, where: str) -> S:
    """Validate nested values as settings.

    Raises:
        SleaveError: lists every mistake at once, each with its key path and, for a misspelt key, the nearest one.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [_explain(kind, dict(e)) for e in _telling(error.errors())]
        raise SleaveError(f"{where} has {len(lines)} mistake{'s' * (len(lines) > 1)}:\n" + "\n".join(lines)) from error


def _telling(errors: Sequence[Any]) -> list[Any]:
    """Without what pydantic says of a list that lacks items only because they have mistakes of their own."""
    paths = [e["loc"] for e in errors]
    return [
        e
        for e in errors
        if e["type"] != "too_short" or not any(p != e["loc"] and p[: len(e["loc"])] == e["loc"] for p in paths)
    ]


def _explain(kind: type[BaseModel], e: dict[str, Any]) -> str:
    # pydantic puts the tag of a union's member (constraint.selective.top) into the path; the file has no such key.
    path = [str(p) for p in e["loc"]]
    models: list[type[BaseModel]] = [kind]
    keys: list[str] = []
    for part in path:
        tagged = [m for m in models if part in m.model_fields]
        if tagged:
            keys.append(part)
            models = [n for m in tagged for n in _models_in(m.model_fields[part].annotation)]
        elif any(_tag(m) == part for m in models):
            models = [m for m in models if _tag(m) == part]
        else:
            keys.append(part)
    key = ".".join(keys)
    if e["type"] == "extra_forbidden":
        allowed = {name for m in models for name in m.model_fields}
        if others := [tag for m in _siblings(kind, keys) if (tag := _tag(m)) and keys[-1] in m.model_fields]:
            return f"  `{key}` is not a setting of the kind chosen, but of {' or '.join(map(repr, others))}."
        return f"  `{key}` is not a setting. {nearest(keys[-1], allowed)}"
    if e["type"] == "missing":
        return f"  `{key}` is missing; it must be given."
    if e["type"] == "union_tag_invalid":
        return f"  `{key}.kind` (= {e['ctx']['tag']!r}) must be one of {e['ctx']['expected_tags']}."
    if e["type"] == "union_tag_not_found":
        tags = ", ".join(repr(t) for m in models if (t := _tag(m)))
        return f"  `{key}.kind` is missing; it must be one of {tags}."
    message = e["msg"].removeprefix("Value error, ")
    if isinstance(e["input"], Mapping) and e["type"] == "value_error":  # a rule between settings; it names their values
        return f"  `{key}`: {message}." if key else f"  {message}."
    return f"  `{key}` (= {e['input']!r}): {message}."


def _siblings(kind: type[BaseModel], keys: Sequence[str]) -> list[type[BaseModel]]:
    """Every settings class that may stand where a key is, whatever its kind."""
    models = [kind]
    for key in keys[:-1]:
        models = [n for m in models if key in m.model_fields for n in _models_in(m.model_fields[key].annotation)]
    return models


def _tag(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return None if field is None else str(field.default)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every settings class that an annotation mentions, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models_in(inner)]


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], *, words: tuple[str, str] = ("there", "now")
) -> list[str]:
    """One line per dotted key whose value differs between two nested dictionaries of JSON values.

    Args:
        before, now: the two.
        words: what each is called.
    """
    old, new = dict(_flat(before)), dict(_flat(now))
    first, second = words
    absent = "(not set)"
    return [
        f"  `{key}`: {first} {old.get(key, absent)!r}, {second} {new.get(key, absent)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
