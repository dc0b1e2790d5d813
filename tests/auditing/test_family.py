"""The family `audit` of `sleave evaluate`: audit.json in the run directory, and what the page makes of it."""

from __future__ import annotations

import json
import shutil

import pytest
import tomli_w
from small import make_material, small_recipe

from sleave import jobs
from sleave.auditing.results import Audit
from sleave.training.run import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("family")
    (run,) = jobs.train(small_recipe(make_material(folder), layer=2), folder / "run")
    return run


@pytest.fixture
def run(trained, tmp_path):
    return RunDirectory(shutil.copytree(trained.path, tmp_path / "run"))


def test_it_is_the_audit_of_the_runs_held_out_rows(run, tmp_path):
    part = jobs.evaluate(run, suite="audit")["audit"]
    expected = jobs.audit(run.path, out=tmp_path / "out")
    found = Audit.from_dict(json.loads(run.audit_file.read_text(encoding="utf-8")))
    assert found == expected
    assert (part["status"], part["rows"], part["fvu"]) == ("ok", expected.summary.rows, expected.summary.fvu)
    assert found.contexts
    page = jobs.report([run.path], tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<canvas") == 2 * bool(found.strong.i)


def test_it_reads_as_many_rows_as_the_held_out_figures(run):
    part = jobs.evaluate(run, suite="audit", settings={"max_rows": 30})["audit"]
    assert (part["rows"], part["settings"]) == (30, {"max_rows": 30})


def test_a_run_without_a_store_says_so(run, capsys):
    config = run.config()
    del config["harvest"]["store"]
    run.config_file.write_text(tomli_w.dumps(config))
    part = jobs.evaluate(run, suite="audit")["audit"]
    assert part["status"] == "no_store"
    assert not run.audit_file.exists()
    assert "audit: no_store. An audit reads its rows more than once" in " ".join(capsys.readouterr().err.split())
