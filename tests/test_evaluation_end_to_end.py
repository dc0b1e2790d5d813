"""Every family of metrics, and the page, on the real model: once, on little."""

from __future__ import annotations

import pytest
from gemma import gemma_recipe

from sleave import jobs

LITTLE = {
    "passages": {"corpus": [{"kind": "packaged", "name": "news"}]},
    "unlearning": {"train": 20, "documents": 8, "topics": ["Sport"], "controls": False},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = gemma_recipe(tmp_path_factory.getbasetemp(), autoencoder={"d_sae": 256}, training={"steps": 40})
    (run,) = jobs.train(recipe, tmp_path_factory.mktemp("evaluated") / "run")
    return run


@pytest.mark.slow
@pytest.mark.real_model
def test_unlearning(run):
    found = jobs.evaluate(run, suite="unlearning", settings=LITTLE)["unlearning"]
    (topic,) = found["topics"]
    assert topic["topic"] == "Sport"
    assert topic["known"][0] >= 16
    assert topic["refitted_clean"] > 0.8
    assert found["status"] == topic["status"] == "ok"
    headline = topic["headline"]
    assert 0 <= headline["score"] <= topic["published_form"]["score"] + 0.5
    assert headline["dev"]["ce_rise"] <= 0.1
    assert headline["dev"]["retain"] >= 0.99
    assert found["headline"] == pytest.approx(headline["score"])
