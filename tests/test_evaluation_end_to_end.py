"""Families of metrics, the table and the page, on the real model: once, on little."""

from __future__ import annotations

import pytest
from gemma import gemma_recipe

from sleave import jobs
from sleave.cli import main

LITTLE = {
    "groups": 4,
    "fidelity": {"documents": 8},
    "probing": {"passages_per_topic": 40},
    "unlearning": {"train": 20, "documents": 8, "topics": ["Sport"], "controls": False},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    recipe = gemma_recipe(tmp_path_factory.getbasetemp(), autoencoder={"d_sae": 256}, training={"steps": 40})
    (run,) = jobs.train(recipe, tmp_path_factory.mktemp("evaluated") / "run")
    return run


@pytest.mark.slow
@pytest.mark.real_model
def test_unlearning_a_topic(run):
    found = jobs.evaluate(run, suite="unlearning", settings=LITTLE)["unlearning"]
    (topic,) = found["topics"]
    assert topic["topic"] == "Sport"
    assert topic["known"][0] >= 16
    assert topic["refitted_clean"] > 0.8
    assert found["status"] == topic["status"] == "ok"
    headline = topic["headline"]
    assert headline["score"] == pytest.approx(1 - headline["test"]["forget"])
    assert headline["dev"]["ce_rise"] <= 0.1
    assert headline["dev"]["retain"] >= 0.99
    assert found["headline"] == pytest.approx(headline["score"])


@pytest.mark.slow
@pytest.mark.real_model
def test_the_other_families_table_and_page(run, tmp_path, capsys):
    families = ("heldout", "audit", "fidelity", "probing")
    results = jobs.evaluate(run, suite=families, settings=LITTLE)
    assert [results[name]["status"] for name in families] == ["ok"] * 4
    fidelity = results["fidelity"]
    assert fidelity["ce_loss_clean"] < fidelity["ce_loss_spliced"] < fidelity["ce_loss_zero"]
    assert results["probing"]["accuracy_5"] > 0.5
    options = [f"--{key}={value}" for key, value in (("groups", 4), ("fidelity.documents", 8))]
    assert main(["evaluate", str(run.path), *options, "--suite", "heldout", "fidelity"]) == 0
    assert "CE loss score" in capsys.readouterr().out
    assert main(["report", str(run.path), "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Not measured: sleave evaluate RUN --suite audit" not in page
    assert 'class="pair"' in page
    assert "<!DOCTYPE html>" in page
