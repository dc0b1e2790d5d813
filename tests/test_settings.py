"""Mistakes in settings come back all at once, each with its key path and what to write instead."""

import pytest
from pydantic import ValidationError

from sleave.activations.settings import BufferSettings
from sleave.base.errors import SleaveError, nearest
from sleave.base.settings import differences, parse
from sleave.language.settings import CorpusSettings
from sleave.penalties.settings import FullConstraint, InformedConstraint, NoConstraint, SelectiveConstraint
from sleave.training.settings import OptimizerSettings, RunSettings

KINDS = "'none', 'informed', 'selective', 'full', 'mi', 'gradient', 'temporal', 'information', 'decoder'"
GOOD = {"autoencoder": {"d_sae": 8}}


class Everything(RunSettings):
    """As a recipe nests things."""

    buffer: BufferSettings = BufferSettings()
    corpus: tuple[CorpusSettings, ...] = ()


def mistakes(values, kind=Everything):
    with pytest.raises(SleaveError) as error:
        parse(kind, values, where="`r.toml`")
    head, *lines = str(error.value).splitlines()
    assert head == f"`r.toml` has {len(lines)} mistake{'s' * (len(lines) > 1)}:"
    return [line.strip() for line in lines]


def test_defaults():
    settings = parse(RunSettings, GOOD, where="x")
    assert settings.autoencoder.d_sae == 8
    assert settings.constraint == InformedConstraint()
    assert settings.training.steps == 1000


def test_all_mistakes_at_once():
    values = {
        "autoencoder": {},
        "training": {"steps": 0, "stpes": 9, "precision": "float64"},
        "constraint": {"kind": "selective", "wieght": 0.1, "top": 2},
        "sead": 3,
    }
    assert sorted(mistakes(values)) == [
        "`autoencoder.d_sae` is missing; it must be given.",
        "`constraint.top` (= 2): Input should be less than or equal to 1.",
        "`constraint.wieght` is not a setting. Did you mean `weight`?",
        "`sead` is not a setting. Did you mean `seed`?",
        "`training.precision` (= 'float64'): Input should be 'auto', 'float32', 'bfloat16' or 'float16'.",
        "`training.steps` (= 0): Input should be greater than or equal to 1.",
        "`training.stpes` is not a setting. Did you mean `steps`?",
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"constraint": {"kind": "none", "weight": 1}}, "`constraint.weight` is not a setting of the kind chosen, but"),
        ({"constraint": {"kind": "full", "wieght": 1}}, "`constraint.wieght` is not a setting. Did you mean `weight`?"),
        (
            {"constraint": {"kind": "full", "top": 1}},
            "`constraint.top` is not a setting of the kind chosen, but of",
        ),
        (
            {"constraint": {"kind": "ful"}},
            f"`constraint.kind` (= 'ful') must be one of {KINDS}.",
        ),
        (
            {"constraint": {"weight": 1}},
            f"`constraint.kind` is missing; it must be one of {KINDS}.",
        ),
        (
            {"constraint": {"kind": "full", "weight": "x"}},
            "`constraint.weight` (= 'x'): Input should be a valid number",
        ),
        ({"buffer": {"scaling": "l0"}}, "`buffer.scaling` (= 'l0'): Input should be "),
        ({"training": 3}, "`training` (= 3): Input should be a valid dictionary"),
        ({"training": {"steps": 1.5}}, "`training.steps` (= 1.5): Input should be a valid integer"),
        ({"optimizer": {"lr": float("nan")}}, "`optimizer.lr` (= nan): Input should be a finite number."),
        ({"optimizer": {"lr": 0}}, "`optimizer.lr` (= 0): Input should be greater than 0."),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "`optimizer.betas.1` (= 1.0): Input should be less than 1."),
        ({"optimizer": {"betas": [0.9]}}, "`optimizer.betas.1` is missing; it must be given."),
        (
            {"optimizer": {"weight_decay": 0.1}},
            "`optimizer`: weight_decay (= 0.1) needs kind = 'adamw'; 'adam' would ignore it.",
        ),
        (
            {"buffer": {"refresh_batches": 100}},
            "`buffer`: refresh_batches (= 100) x batch_contexts (= 32) must be at most buffer_contexts (= 2048); "
            "refresh sooner or enlarge the buffer.",
        ),
        ({"corpus": [{"kind": "fils"}]}, "`corpus.0.kind` (= 'fils') must be one of 'packaged', 'hub', 'files'."),
        (
            {"corpus": [{"kind": "files", "paths": ["a"], "text_feild": "t"}]},
            "`corpus.0.text_feild` is not a setting. Did you mean `text_field`?",
        ),
        ({"corpus": [{"kind": "files", "paths": []}]}, "`corpus.0.paths` (= []): Tuple should have at least 1 item"),
    ],
)
def test_one_mistake(values, said):
    (line,) = mistakes({**GOOD, **values})
    assert line.startswith(said), line


def test_rule_of_the_whole():
    (line,) = mistakes({"kind": "adam", "weight_decay": 0.1}, OptimizerSettings)
    assert line == "weight_decay (= 0.1) needs kind = 'adamw'; 'adam' would ignore it."


def test_list_with_mistakes_inside_is_not_called_too_short():
    from typing import Annotated

    from pydantic import Field

    class Listed(RunSettings):
        corpus: Annotated[tuple[CorpusSettings, ...], Field(min_length=1)]

    assert mistakes({**GOOD, "corpus": [{"kind": "packaged", "name": "x"}]}, Listed) == [
        "`corpus.0.name` (= 'x'): Input should be 'ag_news', 'bbc_news' or 'news'."
    ]
    (line,) = mistakes({**GOOD, "corpus": []}, Listed)
    assert line.startswith("`corpus` (= []): Tuple should have at least 1 item")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("none", NoConstraint),
        ("informed", InformedConstraint),
        ("selective", SelectiveConstraint),
        ("full", FullConstraint),
    ],
)
def test_union_by_kind(kind, settings):
    assert type(parse(RunSettings, {**GOOD, "constraint": {"kind": kind}}, where="x").constraint) is settings


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        parse(RunSettings, GOOD, where="x").seed = 3


def test_nearest():
    assert nearest("lerning_rate", ["learning_rate", "steps"]) == "Did you mean `learning_rate`?"
    assert nearest("zzz", ["b", "a"]) == "Allowed: `a`, `b`."


def test_differences():
    before = {"a": {"b": 1, "c": {"d": [1, 2]}}, "gone": True, "same": {"x": "y"}, "empty": {}}
    now = {"a": {"b": 2, "c": {"d": [1, 3], "e": None}}, "same": {"x": "y"}, "empty": {"k": 1}}
    assert differences(before, now) == [
        "  `a.b`: there 1, now 2",
        "  `a.c.d`: there [1, 2], now [1, 3]",
        "  `a.c.e`: there '(not set)', now None",
        "  `empty`: there {}, now '(not set)'",
        "  `empty.k`: there '(not set)', now 1",
        "  `gone`: there True, now '(not set)'",
    ]
    assert differences(before, before) == []
    assert differences({"a": "/there"}, {"a": "now"}, words=("one", "other")) == ["  `a`: one '/there', other 'now'"]
