"""The command line as a user meets it: help, mistakes, and a whole small study."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small import content, make_material, write_recipe

import sleave
from sleave.base.files import read_toml
from sleave.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with recipe.toml, and runs/none, runs/selective and runs/full of it."""
    folder = tmp_path_factory.mktemp("study")
    write_recipe(folder / "recipe.toml", make_material(folder) | {"layer": 2})
    assert main(["harvest", str(folder / "recipe.toml")]) == 0
    for kind in ("none", "selective", "full"):
        out = ["--out", str(folder / "runs" / kind)]
        assert main(["train", str(folder / "recipe.toml"), *out, "--constraint.kind", kind]) == 0
    return folder


@pytest.fixture
def recipe(study) -> str:
    return str(study / "recipe.toml")


def run_python(*arguments: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **kwargs)


def run_main(*arguments: object) -> int:
    """The exit status, whether it is returned or raised by argparse."""
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)


# Help


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_alone_it_shows_what_there_is(arguments, capsys):
    assert run_main(*arguments) == 0
    out = capsys.readouterr().out
    assert all(f"sleave {verb}" in out for verb in ("harvest", "train", "evaluate"))


def test_version(capsys):
    assert run_main("--version") == 0
    assert capsys.readouterr().out == f"sleave {sleave.__version__}\n"


@pytest.mark.parametrize("verb", ["harvest", "train"])
def test_help_lists_every_setting_with_the_recipes_value(verb, recipe, capsys):
    assert run_main(verb, recipe, "--help") == 0
    out = " ".join(capsys.readouterr().out.split())
    for line in (
        "--harvest.chunk_tokens int Training rows in one chunk of the store: what a kill loses at most. (now: 150)",
        "--autoencoder.d_sae int How many features the dictionary has. (now: 24)",
        "--constraint.top float",
        "(now: 0.05)",
        "--training.steps int How many updates. (now: 6)",
    ):
        assert line in out


def test_help_needs_no_recipe_and_no_valid_one(capsys, tmp_path):
    (tmp_path / "bad.toml").write_text("[model", encoding="utf-8")
    for arguments in (["train", "--help"], ["train", tmp_path / "bad.toml", "--help"], ["evaluate", "--help"]):
        assert run_main(*arguments) == 0
    assert "--training.steps" in capsys.readouterr().out


# Mistakes


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--constraint.wieght", "Did you mean `--constraint.weight`?"),
        ("--constraint.weigh", "Did you mean `--constraint.weight`?"),
        ("--training.step=3", "Did you mean `--training.steps`?"),
        ("--zzz", "`sleave train --help` lists them."),
    ],
)
def test_a_misspelt_option(recipe, capsys, option, hint):
    assert run_main("train", recipe, option, "0.2") == 2
    err = capsys.readouterr().err
    assert f"sleave train: {option} is not an option. {hint}" in err
    assert "usage" not in err


def test_an_unknown_verb(capsys):
    assert run_main("trian") == 2
    err = capsys.readouterr().err
    assert "invalid choice: 'trian'" in err
    assert "harvest" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train",), "the following arguments are required: RECIPE"),
        (("train", "nowhere.toml"), "`nowhere.toml` does not exist."),
        (("harvest", "RECIPE", "--harvest.store", "None"), "`harvest.store` names no folder."),
        (("train", "RECIPE", "--training.steps", "0"), "`training.steps` (= '0'): Input should be greater than"),
        (("train", "RECIPE", "--layer", "7"), "`layer` (= '7'): must be one of model.layers (= [0, 2])."),
        (
            ("train", "RECIPE", "--constraint.kind", "none", "--constraint.top", "1"),
            "`constraint.top` is not a setting",
        ),
        (("train", "RECIPE", "--corpus", '{"kind": "files"}'), "`corpus.0.paths` is missing"),
        (("train", "RECIPE", "--model.name", "no folder", "--harvest.store", "None"), "There is no folder `no folder`"),
        (("train", "RECIPE", "--model.layers", "9", "--layer", "9", "--harvest.store", "None"), "between 0 and 2"),
        (("train", "RECIPE", "--training.device", "cuda:99", "--out", "OUT"), "`device` (= 'cuda:99') cannot be used"),
        (("evaluate", "nowhere"), "There is no run at `nowhere`"),
        (("evaluate",), "the following arguments are required: DIR"),
        (("evaluate", "RUN", "--table", "t.txt"), "A table is written as .csv or .md"),
        (("evaluate", "RUN", "--store", "nowhere"), "There is no activation store at `nowhere`"),
    ],
)
def test_a_mistake_ends_in_one_message_and_status_2(study, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    names = {"RECIPE": study / "recipe.toml", "RUN": study / "runs" / "none", "OUT": tmp_path / "out"}
    assert run_main(*(names.get(a, a) for a in arguments)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert f"sleave {arguments[0]}: " in err
    assert "Traceback" not in err


def test_several_mistakes_at_once(recipe, capsys):
    assert run_main("train", recipe, "--model.layers", "3,1", "--training.steps", "x") == 2
    err = capsys.readouterr().err
    assert "has 2 mistakes:" in err
    assert "`model.layers` (= [3, 1])" in err
    assert "`training.steps` (= 'x')" in err


def test_no_traceback_in_a_process_of_its_own(tmp_path):
    done = run_python("-m", "sleave", "train", str(tmp_path / "none.toml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"sleave train: `{tmp_path / 'none.toml'}` does not exist.\n"


def test_a_fault_of_sleaves_own_shows_its_traceback(recipe, monkeypatch):
    monkeypatch.setattr("sleave.jobs.harvest", lambda _recipe: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["harvest", recipe])


# A study


def test_what_a_run_holds(study):
    run = study / "runs" / "selective"
    assert {p.name for p in run.iterdir()} >= {
        "config.toml",
        "metrics.jsonl",
        "results.json",
        "sae",
        "environment.json",
    }
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 6
    assert sleave.load(run).d_sae == 24


def test_evaluation_side_by_side(study, tmp_path, capsys):
    runs = [study / "runs" / kind for kind in ("none", "selective", "full")]
    assert run_main("evaluate", *runs, "--table", tmp_path / "x.md") == 0
    captured = capsys.readouterr()
    assert f"Wrote {tmp_path / 'x.md'}" in captured.err
    assert "MSE" in captured.out
    table = (tmp_path / "x.md").read_text(encoding="utf-8").splitlines()
    assert [c.strip() for c in table[0].strip("|").split("|")] == ["run", *(run.name for run in runs)]
    figures = table[2 : table.index("")]
    cells = {row.split("|")[1].strip(): [c.strip() for c in row.strip("|").split("|")][1:] for row in figures}
    assert any(row.startswith("| less the baseline |") for row in table)
    for number, run in enumerate(runs):
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        assert {"heldout", "training", "environment"} <= results.keys()
        assert float(cells["MSE"][number].split()[0]) == pytest.approx(results["heldout"]["scaled"]["mse"], abs=0.05)
    # A folder of runs is the same as each of them, and a second time nothing is evaluated again.
    assert run_main("evaluate", study / "runs", "--table", tmp_path / "y.md") == 0
    assert "Evaluating" not in capsys.readouterr().err
    assert sorted((tmp_path / "y.md").read_text().splitlines()[0]) == sorted(table[0])


def test_every_constraint_trains_and_overlap_compares_them(study, recipe, tmp_path, capsys):
    for kind in ("mi", "gradient", "temporal", "information"):
        options = ["--constraint.kind", kind, "--constraint.weight", "1", "--constraint.top", "0.2"]
        assert run_main("train", recipe, "--out", tmp_path / kind, *options, "--constraint.refresh", "2") == 0
        last = json.loads((tmp_path / kind / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["constraint"] > 0
        assert 0 <= last["constraint_overlap"] <= 1
        assert (tmp_path / kind / "pairs.safetensors").is_file()
    assert run_main("evaluate", tmp_path) == 0
    assert "mean I" in capsys.readouterr().out
    assert run_main("overlap", tmp_path / "mi", tmp_path / "temporal", study / "runs" / "none") == 0
    assert "100.0%" in capsys.readouterr().out  # six steps leave every feature what it was
    assert run_main("overlap", study / "runs" / "none", study / "runs" / "full") == 2
    assert "0 of these runs chose pairs; give two at least that did. Left out" in capsys.readouterr().err


def test_overrides_are_in_the_runs_config(study, recipe, tmp_path):
    options = ["--constraint.weight", "0.2", "--training.steps=2", "--model.layers", "0,1,2", "--layer", "1"]
    assert run_main("train", recipe, "--out", tmp_path / "run", "--harvest.store", "None", *options) == 0
    config = read_toml(tmp_path / "run" / "config.toml")
    assert config["constraint"] == {**read_toml(study / "runs/selective/config.toml")["constraint"], "weight": 0.2}
    assert (config["training"]["steps"], config["model"]["layers"], config["layer"]) == (2, [0, 1, 2], 1)
    assert "store" not in config["harvest"]


def test_a_runs_config_trains_the_same_run_again(study, tmp_path):
    before = study / "runs" / "selective"
    assert run_main("train", before / "config.toml", "--out", tmp_path / "again") == 0
    assert content(tmp_path / "again" / "sae") == content(before / "sae")
    assert (tmp_path / "again" / "config.toml").read_bytes() == (before / "config.toml").read_bytes()


def test_without_out_the_run_is_named_after_the_recipe(study, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_main("train", recipe, "--training.steps", "1") == 0
    assert (tmp_path / "runs" / "recipe" / "results.json").is_file()


def test_several_layers(recipe, tmp_path, capsys):
    assert run_main("train", recipe, "--out", tmp_path / "both", "--layer", "None", "--training.steps", "1") == 0
    assert sorted(p.name for p in (tmp_path / "both").iterdir()) == ["layer_00", "layer_02"]
    assert run_main("evaluate", tmp_path / "both") == 0
    assert "layer_02" in capsys.readouterr().out


def test_a_finished_run(study, recipe, capsys):
    assert run_main("train", recipe, "--out", study / "runs" / "selective") == 0
    assert "is finished already; reusing it." in capsys.readouterr().err


def test_an_unfinished_run_is_not_evaluated(study, tmp_path, capsys):
    (tmp_path / "config.toml").write_bytes((study / "runs" / "none" / "config.toml").read_bytes())
    assert run_main("evaluate", tmp_path) == 2
    assert f"`{tmp_path}` is not finished. Run the same `sleave train` command again" in capsys.readouterr().err


def test_ctrl_c(recipe, tmp_path, monkeypatch, capsys):
    def interrupted(_recipe):
        raise KeyboardInterrupt

    monkeypatch.setattr("sleave.jobs.harvest", interrupted)
    assert run_main("harvest", recipe) == 130
    assert "sleave harvest: stopped. What was finished is kept" in capsys.readouterr().err


def test_a_reader_that_goes_away(study):
    command = [sys.executable, "-m", "sleave", "evaluate", str(study / "runs")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        err = child.stderr.read()
    assert child.returncode == 0
    assert "Error" not in err


# The package


def test_import_is_light():
    code = "import sys, sleave; print(sorted({'torch', 'transformers', 'numpy', 'pydantic'} & set(sys.modules)))"
    assert run_python("-c", code).stdout == "[]\n"


def test_help_is_light():
    code = "import sys; from sleave.cli import main\ntry: main([])\nfinally: print('torch' in sys.modules)"
    assert run_python("-c", code).stdout.endswith("False\n")


@pytest.mark.parametrize("name", sleave._HOME)
def test_public_names(name):
    value = getattr(sleave, name)
    assert value.__doc__
    assert value.__doc__.strip()
    assert value.__name__ == name
    assert name in dir(sleave)


def test_what_is_not_there():
    with pytest.raises(AttributeError, match="module 'sleave' has no attribute 'trian'"):
        _ = sleave.trian
    assert sorted(sleave.__all__) == sleave.__all__
    assert {*sleave.__all__, "SparseAutoencoderEstimator"} == set(sleave._HOME)
