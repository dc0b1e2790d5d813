"""From a finished run to its parts of results.json, on a tiny language model."""

import json

import pytest
from small import make_material, small_recipe

from sleave import jobs

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILIES = ("fidelity", "probing", "absorption", "ground_truth")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    values = make_material(tmp_path_factory.mktemp("families")) | {"layer": 2}
    (run,) = jobs.train(small_recipe(values), tmp_path_factory.mktemp("runs") / "run")
    return run


def test_each_is_written_with_its_status(run):
    labelled = run.config()["corpus"]
    settings = {
        "passages": {"corpus": labelled, "tokens": 8, "min_tokens": 2},
        "fidelity": {"documents": 6},
        "ground_truth": {"seeds": 2, "steps": 5},
    }
    jobs.evaluate(run, suite=FAMILIES, settings=settings)
    found = json.loads(run.results_file.read_text())
    assert {name: found[name]["status"] for name in FAMILIES} == {
        "fidelity": "ok",
        "probing": "too_few_passages",
        "absorption": "too_few_words",
        "ground_truth": "ok",
    }
    assert found["fidelity"]["documents"] == 6
    assert found["fidelity"]["settings"] == {"documents": 6}
    assert found["ground_truth"]["gain_intervals"].keys() == found["ground_truth"]["gain"].keys()
    before = run.results_file.read_bytes()
    jobs.evaluate(run, suite=FAMILIES, settings=settings)
    assert run.results_file.read_bytes() == before
