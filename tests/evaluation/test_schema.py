"""The committed schema of results.json holds a real result, and refuses others."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from toy_run import make_recipe

import sleave
from sleave import jobs
from sleave.evaluation.evaluate import Evaluation
from sleave.jobs.families import FAMILIES
from sleave.training.run import RESULTS_SCHEMA

SCHEMA = json.loads((Path(sleave.__file__).parent / "evaluation" / "results.schema.json").read_text())
TYPES = {"object": dict, "array": list, "string": str, "number": int | float, "integer": int, "null": type(None)}


def mistakes(value, schema, at="results"):
    """Where a value breaks a schema, of the words that this one uses (draft 2020-12)."""
    if "$ref" in schema:
        return mistakes(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], at)
    if "anyOf" in schema:
        each = [mistakes(value, s, at) for s in schema["anyOf"]]
        return [] if any(not e for e in each) else each[0]
    if "const" in schema:
        return [] if value == schema["const"] else [f"{at} is {value!r}"]
    if not isinstance(value, TYPES[schema["type"]]) or isinstance(value, bool):
        return [f"{at} is no {schema['type']}"]
    found = []
    if isinstance(value, list):
        found += [m for n, item in enumerate(value) for m in mistakes(item, schema.get("items", {}), f"{at}[{n}]")]
    if isinstance(value, dict):
        found += [f"{at} lacks {name}" for name in schema.get("required", []) if name not in value]
        for name, item in value.items():
            patterns = [s for p, s in schema.get("patternProperties", {}).items() if re.search(p, name)]
            own = schema.get("properties", {}).get(name) or (patterns or [schema.get("additionalProperties", True)])[0]
            if own is False:
                found.append(f"{at} must not have {name}")
            elif own is not True:
                found += mistakes(item, own, f"{at}.{name}")
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("schema")
    torch.manual_seed(0)
    (run,) = jobs.train(make_recipe(folder), folder / "run")
    jobs.evaluate(run)
    return json.loads(run.results_file.read_text())


def test_a_real_result(results):
    assert mistakes(results, SCHEMA) == []
    assert results["schema"] == RESULTS_SCHEMA == SCHEMA["properties"]["schema"]["const"]
    assert results["heldout"]["groups"]["scaled.fvu"]
    assert {f.name for f in fields(Evaluation)} <= SCHEMA["$defs"]["heldout"]["properties"].keys()


def test_other_parts_need_a_status(results):
    made = results["heldout"]["environment"]
    part = {"status": "ok", "settings": {}, "seconds": 1.0, "environment": made, "mcc": 0.5}
    part["intervals"] = {"mcc": [0.4, 0.6]}
    assert mistakes({**results, "ground_truth": part}, SCHEMA) == []
    assert mistakes({**results, "ground_truth": {"mcc": 0.5}}, SCHEMA)[0] == "results.ground_truth lacks status"
    assert mistakes({**results, "others": part}, SCHEMA) == ["results must not have others"]


def test_every_family_has_a_place():
    assert SCHEMA["properties"].keys() == {"schema", "environment", "training", *FAMILIES}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), 1, "results.schema is 1"),
        (("heldout", "codes", "l0"), "many", "results.heldout.codes.l0 is no number"),
        (("heldout", "codes", "more"), 1, "results.heldout.codes must not have more"),
        (("heldout", "correlation"), {}, "results.heldout.correlation lacks peak_cosine"),
        (("heldout", "groups", "scaled.fvu"), ["x"], "results.heldout.groups.scaled.fvu[0] is no number"),
    ],
)
def test_what_it_refuses(results, path, value, message):
    other = deepcopy(results)
    inner = other
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert mistakes(other, SCHEMA)[0] == message
