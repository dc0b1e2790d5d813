"""docs/results.md is what the committed results give, and says so when it is not."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from benchmarks import figures
from benchmarks.results_page import filled, main
from made_runs import make_run

from sleave.base.errors import SleaveError
from sleave.base.files import read_json, write_json
from sleave.evaluation.jackknife import quantile_of_t

PAGE = "# Results\n\nprose\n\n<!-- table: grid -->\n<!-- end -->\n\nmore prose\n"
FVU = (0.30, 0.31, 0.35)


def run(method: str, seed: int, fvu: float, layer: int = 8, **settings: Any) -> dict[str, Any]:
    found = {"training": {"seed": seed, "recipe": method}, "heldout": {"scaled": {"fvu": fvu}, "codes": {"l0": 50.0}}}
    name = f"{method}/layer_{layer:02d}/seed_{seed}"
    return {"name": name, "method": method, "layer": layer, "seed": seed, "settings": settings, "results": found}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    runs = [run("none", seed, fvu) for seed, fvu in enumerate(FVU)]
    runs += [run("selective", 0, 0.4), {**run("selective", 0, 0.5, **{"constraint.weight": 0.2}), "name": "other"}]
    runs += [run("none", 0, 0.6, layer=3)]
    about = {"title": "A grid", "command": "sleave experiment x.toml", "machines": ["a machine"], "commits": ["abc"]}
    write_json(tmp_path / "grid.json", {**about, "runs": runs})
    reported = {"paper": [{"figure": "speed", "where": "Table 1", "selective": 0.12}]}
    (tmp_path / "papers.toml").write_text(tomli_w.dumps(reported))
    set_table(tmp_path)
    return tmp_path


def set_table(folder: Path, **changes: Any) -> None:
    values = {"results": "grid", "figures": ["L0", "FVU"], "layers": [8], "papers": "paper", **changes}
    (folder / "tables.toml").write_text(tomli_w.dumps({"grid": values}))


def rows(page: str) -> list[list[str]]:
    return [[c.strip() for c in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]


def test_a_table(folder):
    page = filled(PAGE, folder)
    half = quantile_of_t(2) * statistics.stdev(FVU) / 3**0.5
    assert rows(page) == [
        ["", "none", "selective"],
        ["---", "---:", "---:"],
        ["L0", "50.0 ±0.0", "50.0"],
        ["FVU", f"0.3200 ±{half:.4f}", "0.4000"],
        ["*the paper's speed (Table 1)*", "", "*0.12*"],
    ]
    assert "`sleave experiment x.toml`: A grid; 1 to 3 seeds; a machine; commit abc." in page
    assert page.startswith("# Results\n\nprose\n\n<!-- table: grid -->\n")
    assert page.endswith("<!-- end -->\n\nmore prose\n")
    assert filled(page, folder) == page


def test_settings_that_vary_and_layers(folder):
    set_table(folder, settings=True, layers=[], methods=["none", "selective"])
    assert rows(filled(PAGE, folder))[0][1:] == [
        *("none, layer 8", "none, layer 3", "selective, layer 8", "selective, weight 0.2, layer 8"),
    ]


def test_what_a_paper_reports_stands_at_every_layer(folder):
    set_table(folder, layers=[], methods=["none", "selective"])
    papers = {"paper": [{"figure": "speed", "where": "Table 1", "none": 0.3, "selective": 0.12}]}
    (folder / "papers.toml").write_text(tomli_w.dumps(papers))
    found = rows(filled(PAGE, folder))
    assert found[0] == ["", "none, layer 8", "none, layer 3", "selective, layer 8"]
    assert found[-1] == ["*the paper's speed (Table 1)*", "*0.3*", "*0.3*", "*0.12*"]


def test_runs_are_collected_and_shown(folder, tmp_path):
    (page := tmp_path / "page.md").write_text(PAGE)
    (folder / "tables.toml").write_text('[grid]\nresults = "new"\nfigures = ["L0", "FVU"]\n')
    make_run(folder / "runs" / "none" / "layer_08" / "seed_0")
    arguments = ["--page", str(page), "--results", str(folder)]
    assert main([*arguments, "--collect", str(folder / "runs"), "new", "--command", "sleave experiment y.toml"]) == 0
    assert rows(page.read_text())[2:] == [["L0", "40.0"], ["FVU", "0.3000"]]
    assert "`sleave experiment y.toml`: runs; 1 seed" in page.read_text()
    assert main([*arguments, "--check"]) == 0


def test_a_mistake_is_told_in_words(folder, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--results", str(folder), "--collect", str(folder / "nowhere"), "new"])
    assert stopped.value.code == 2
    assert "There is no run at" in capsys.readouterr().err


def test_check_tells_what_would_change(folder, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    arguments = ["--page", str(page), "--results", str(folder)]
    assert main([*arguments, "--check"]) == 1
    assert "+| FVU | 0.3200" in capsys.readouterr().out
    assert page.read_text() == PAGE  # changes nothing
    assert main(arguments) == 0
    assert main([*arguments, "--check"]) == 0
    page.write_text(page.read_text().replace("0.3200", "0.3100"))
    assert main([*arguments, "--check"]) == 1
    assert "-| FVU | 0.3100" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("page", "changes", "message"),
    [
        ("<!-- table: grid -->\n", {}, "does not end in `<!-- end -->`"),
        (PAGE.replace("grid", "gird"), {}, "There is no table `gird` in .* Did you mean `grid`"),
        (PAGE, {"figures": ["FUV"]}, "There is no figure `FUV`. Did you mean `FVU`"),
        (PAGE, {"methods": ["nobody"]}, "No run of results/grid.json is of the methods"),
        (PAGE, {"papers": "papre"}, "There is no paper `papre`"),
        (PAGE, {"colour": 1}, "`colour` is not a setting"),
    ],
)
def test_mistakes(folder, page, changes, message):
    set_table(folder, **changes)
    with pytest.raises(SleaveError, match=message):
        filled(page, folder)


def test_the_page_is_what_the_committed_results_give(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_differences(folder):
    """As shares of the baseline's, a row for each method that has one."""
    content = read_json(folder / "grid.json")
    for one in content["runs"]:
        kind = "none" if one["method"] == "none" else "selective"
        one["results"]["training"] |= {"constraint": kind, "architecture": "relu", "d_sae": 64, "d_in": 8}
    write_json(folder / "grid.json", content)
    values = {"results": "grid", "figures": ["FVU"], "layers": [8], "settings": True, "differences": True}
    (folder / "tables.toml").write_text(tomli_w.dumps({"grid": values}))
    found = rows(filled(PAGE, folder))
    mean = statistics.fmean(FVU)
    assert found[0] == ["", "FVU"]
    assert [row[0] for row in found[2:4]] == ["selective", "selective, weight 0.2"]
    assert found[2][1].startswith(f"{0.4 / mean - 1:+.1%}")
    assert found[3][1].startswith(f"{0.5 / mean - 1:+.1%}")


def test_figures_are_drawn_of_the_committed_results(tmp_path):
    """Every method of the frontier and of the recoupling has its line; the same numbers give the same bytes."""
    figures.draw(tmp_path / "a")
    figures.draw(tmp_path / "b")
    for name in ("frontier", "recoupling", "matrices"):
        first, second = ((tmp_path / folder / f"{name}.svg").read_bytes() for folder in "ab")
        assert first == second
    runs = read_json(figures.ROOT / "results" / "frontier.json")["runs"]
    lines = figures.frontier(runs).axes[0].lines
    assert sum(len(line.get_xdata()) for line in lines) == sum(run["method"] != "none" for run in runs) > 9
