"""The run directory: what it refuses, what it mends, and what it holds in the end."""

import json
import re
import sys

import pytest
import tomli_w
import torch
from toy_run import open_source, run_settings

from sleave.base.errors import SleaveError
from sleave.interop.reading import load
from sleave.training.loop import train
from sleave.training.run import RunDirectory

CONFIG = {"seed": 1, "constraint": {"kind": "selective", "weight": 0.1}, "corpus": [{"kind": "files"}]}


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "deep" / "run")
    run.begin(CONFIG)
    return run


def test_beginning_writes_the_settings_and_the_machine(run):
    assert run.started
    assert not run.finished
    assert run.config() == CONFIG
    assert json.loads((run.path / "environment.json").read_text())["packages"]["torch"] == torch.__version__


def test_beginning_again_with_the_same_settings_changes_nothing(run):
    run.checkpoint_file.touch()
    before = {p: p.stat().st_mtime_ns for p in run.path.iterdir()}
    run.begin(CONFIG)
    assert {p: p.stat().st_mtime_ns for p in run.path.iterdir()} == before


def test_other_settings_are_listed(run):
    run.checkpoint_file.touch()
    other = {"seed": 1, "constraint": {"kind": "selective", "weight": 0.2, "top": 0.5}, "corpus": [{"kind": "hub"}]}
    with pytest.raises(SleaveError, match="other settings") as error:
        run.begin(other)
    lines = str(error.value).splitlines()
    assert lines[1:4] == [
        "  `constraint.top`: there '(not set)', now 0.5",
        "  `constraint.weight`: there 0.1, now 0.2",
        "  `corpus`: there [{'kind': 'files'}], now [{'kind': 'hub'}]",
    ]
    assert "Choose another --out" in lines[4]
    assert run.config() == CONFIG


def test_settings_from_which_nothing_was_trained_make_way(run):
    run.begin({**CONFIG, "seed": 9})
    assert run.config()["seed"] == 9


def test_folder_of_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(SleaveError, match="not empty and not a run"):
        RunDirectory(tmp_path).begin(CONFIG)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_in_the_way(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(SleaveError, match="is not a folder"):
        RunDirectory(tmp_path / "run").begin(CONFIG)
    assert (tmp_path / "run").read_text() == "x"


def test_no_run(tmp_path):
    with pytest.raises(SleaveError, match=r"not a run directory: it has no config\.toml"):
        RunDirectory(tmp_path).config()


def test_truncated_config(run):
    run.checkpoint_file.touch()
    run.config_file.write_text(tomli_w.dumps(CONFIG)[:30])
    with pytest.raises(SleaveError, match=re.escape(f"`{run.config_file}` is not valid TOML")):
        run.begin(CONFIG)
    run.config_file.write_text("seed = 1\n")  # cut at the end of a line
    with pytest.raises(SleaveError, match=r"`constraint\.weight`: there '\(not set\)', now 0\.1"):
        run.begin(CONFIG)


def test_kill_while_the_settings_were_written(tmp_path):
    (tmp_path / ".config.toml.abc.tmp").write_text("seed =")
    run = RunDirectory(tmp_path)
    run.begin(CONFIG)
    assert run.config() == CONFIG


def test_what_killed_writes_left_is_removed(run):
    run.sae.mkdir()
    left = [
        run.path / ".checkpoint.safetensors.abc.tmp",
        run.path / ".tmpmJtw1M",
        run.sae / ".sae_weights.safetensors.x_y.tmp",
    ]
    for path in left:
        path.write_bytes(b"half")
    run.begin(CONFIG)
    assert not any(path.exists() for path in left)


def test_metrics_go_on_where_the_checkpoint_is(run):
    log = run.open_metrics(0)
    for step in (1, 2, 3):
        log.log({"step": step, "loss": 0.1 * step})
    log.close()
    with run.metrics_file.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [m["step"] for m in run.metrics()] == [1, 2, 3]
    log = run.open_metrics(2)
    log.log({"step": 3, "loss": 7.0})
    log.close()
    lines = run.metrics_file.read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": 0.1},
        {"step": 2, "loss": 0.2},
        {"step": 3, "loss": 7.0},
    ]


def test_no_metrics_yet(run):
    assert list(run.metrics()) == []


def test_results_are_added_part_by_part(run):
    run.add_results("training", {"steps": 3})
    assert run.finished
    run.add_results("heldout", {"fvu": 0.5})
    run.add_results("training", {"steps": 4})
    results = run.results()
    assert (results["training"], results["heldout"], results["schema"]) == ({"steps": 4}, {"fvu": 0.5}, 2)
    assert "packages" in results["environment"]


def test_what_an_older_sleave_measured_is_measured_anew(run):
    run.add_results("training", {"steps": 3})
    old = {"schema": 1, "environment": {"python": "3.10"}, "training": {"steps": 3}, "evaluation": {"fvu": 0.5}}
    run.results_file.write_text(json.dumps(old))
    assert run.finished
    assert run.results() == {"environment": {"python": "3.10"}, "training": {"steps": 3}}
    run.add_results("heldout", {"fvu": 0.4})
    assert json.loads(run.results_file.read_text()) == {
        "schema": 2,
        "environment": {"python": "3.10"},
        "training": {"steps": 3},
        "heldout": {"fvu": 0.4},
    }


def test_runs_that_differ_only_in_the_seed_say_so(tmp_path, store):
    def summary(name, **changes):
        return train(run_settings(training={"steps": 1}, **changes), open_source(store), RunDirectory(tmp_path / name))

    first, second, third = summary("a"), summary("b", seed=6), summary("c", sparsity={"weight": 0.2})
    assert (first["seed"], second["seed"]) == (5, 6)
    assert first["recipe"] == second["recipe"] != third["recipe"]


def test_truncated_results(run):
    run.add_results("training", {"steps": 3})
    run.results_file.write_text(run.results_file.read_text()[:-9])
    with pytest.raises(SleaveError, match="not valid JSON"):
        _ = run.finished


def test_what_a_run_holds_in_the_end(run, store):
    source = open_source(store)
    summary = train(run_settings(), source, run)
    assert run.results()["training"] == summary
    metrics = list(run.metrics())
    assert summary["steps"] == 30
    assert summary["rows"] == metrics[-1]["rows"] == 240
    assert summary["seconds"] == pytest.approx(sum(m["seconds"] for m in metrics))
    assert (summary["d_in"], summary["d_sae"]) == (6, 12)
    assert summary["last_30_steps"]["loss"] == pytest.approx(sum(m["loss"] for m in metrics) / 30)
    assert summary["waiting_share"] == pytest.approx(sum(m["waiting"] for m in metrics) / summary["seconds"])
    assert 0 < summary["waiting_share"] < 1
    assert {"lr", "seconds", "waiting", "step", "rows"}.isdisjoint(summary["last_30_steps"])
    assert torch.equal(run.scaling().shift, source.scaling.shift)
    assert torch.equal(run.scaling().scale, source.scaling.scale)
    saved = json.loads((run.sae / "cfg.json").read_text())["metadata"]
    assert (saved["training_tokens"], saved["hook_name"]) == (240, "blocks.3.hook_resid_post")
    assert load(run.path).W_dec.norm(dim=1).allclose(torch.ones(12))


def test_metrics_mean_what_they_say(run, store):
    settings = run_settings()
    train(settings, open_source(store), run)
    metrics = list(run.metrics())
    for m in metrics:
        scale = min(1, m["step"] / settings.sparsity.warmup_steps)
        assert m["loss"] == pytest.approx(m["mse"] + scale * 0.1 * m["l1"] + m["constraint"], rel=1e-5)
        assert 0 < m["l0"] <= 12
        assert 0 < m["fvu"] < 5
        assert m["active"] <= 12
        assert m["constraint_pairs"] == 7  # 10% of 66
    assert metrics[2]["lr"] == pytest.approx(0.02 * 3 / 5)


def test_dead_features_are_counted_by_rows_since_they_fired(run, store):
    source = open_source(store)
    draw, drawn = source.next_batch, []

    def next_batch(*share):
        drawn.append(draw(*share))
        return torch.zeros_like(drawn[-1]) if len(drawn) <= 7 else drawn[-1]  # nothing fires on zeros

    source.next_batch = next_batch
    train(run_settings(constraint={"kind": "none"}, training={"steps": 8}, optimizer={"lr": 1e-9}), source, run)
    *dead, revived = [m["dead"] for m in run.metrics()]
    assert dead == [0, 0, 0, 0, 12, 12, 12]  # dead_after_tokens = 40 rows, 5 batches of 8
    acts = load(run.path).encode(source.scaling.invert(drawn[-1]))
    assert revived == int((acts == 0).all(0).sum()) < 12


def test_tracker_whose_package_is_missing(run, store, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(SleaveError, match=r"`tensorboard`, which is not installed\. Run: pip install"):
        train(run_settings(training={"trackers": ["tensorboard"]}), open_source(store), run)


def test_other_settings_of_the_evaluation_do_not_make_another_run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.begin({"seed": 1, "evaluation": {"max_rows": 10}})
    run.add_results("training", {"steps": 4})
    run.check({"seed": 1, "evaluation": {"max_rows": 20}})
    with pytest.raises(SleaveError, match="seed"):
        run.check({"seed": 2, "evaluation": {"max_rows": 10}})


def test_results_of_an_older_version_are_kept_beside_the_new(tmp_path, capsys):
    run = RunDirectory(tmp_path / "run")
    run.begin({"seed": 1})
    old = {"schema": 1, "training": {"steps": 4}, "evaluation": {"fvu": 0.5}}
    run.results_file.write_text(json.dumps(old))
    run.add_results("heldout", {"rows": 3})
    assert json.loads((run.path / "results.v1.json").read_text()) == old
    assert (run.results()["training"], run.results()["heldout"]) == ({"steps": 4}, {"rows": 3})
    assert "is of version 1, this is 2. The old one is kept in" in "".join(capsys.readouterr().err.split("\n"))


def test_results_that_are_no_object(tmp_path):
    run = RunDirectory(tmp_path)
    run.results_file.write_text("[]")
    with pytest.raises(SleaveError, match="is no object of results"):
        run.results()
