"""`sleave report`: what it reads, what it says of what is not there, and which runs belong together."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest
from html_reader import read
from made_runs import HOSTILE, heldout, make_audit, make_run, unlearning

from sleave import jobs
from sleave.auditing.results import Histogram
from sleave.base.errors import SleaveError
from sleave.cli import main
from sleave.report.figures import density_of, methods, steps, used
from sleave.report.maps import baseline
from sleave.report.pairs import entangled_pairs
from sleave.report.reading import POINTS, read_runs, thinned
from sleave.training.run import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def audit():
    return make_audit()


@pytest.fixture
def page(tmp_path):
    """Make the page of some runs; gives its elements and its text."""

    def page(*runs):
        text = jobs.report(list(runs), tmp_path / "page.html").read_text(encoding="utf-8")
        return read(text), unescape(re.sub(r"<[^>]*>", " ", text.split("<main")[1].split("</main>")[0]))

    return page


def runs_at(*paths):
    return read_runs([RunDirectory(path) for path in paths])


def test_what_is_not_measured_is_said_with_the_command(tmp_path, page):
    bare = make_run(tmp_path / "bare", results={"heldout": {}})
    elements, text = page(bare)
    assert f"Pairs are not measured: sleave evaluate {bare} --suite audit" in text
    assert text.count("Not measured: sleave evaluate RUN --suite audit") == 3
    assert "Not measured: sleave evaluate RUN --suite unlearning" in text
    assert elements.all("canvas") == []


def test_a_family_without_figures_says_why(tmp_path, page):
    why = {"status": "too_few_known", "why": "Only 3 documents were known."}
    _, text = page(make_run(tmp_path / "run", results={"unlearning": why | {"topics": []}}))
    assert "unlearning: too_few_known. Only 3 documents were known." in text


def test_an_unfinished_run(tmp_path, page):
    run = make_run(tmp_path / "run")
    (run / "results.json").unlink()
    _, text = page(run)
    assert "Its training is not finished: the same `sleave train` command goes on." in text
    (run / "metrics.jsonl").unlink()
    _, text = page(run)
    assert "No metrics." in text


@pytest.mark.parametrize("content", ["{", "{}", '{"about": {"x": NaN}}', "[1]"])
def test_a_damaged_audit_is_passed_over(tmp_path, page, content):
    run = make_run(tmp_path / "run")
    (run / "audit.json").write_text(content)
    _, text = page(run)
    assert f"`audit.json` is damaged or of another version: sleave evaluate {run} --suite audit --again" in text


def test_damaged_metrics_are_passed_over(tmp_path, page):
    run = make_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text('{"step": 1}\nnonsense\n')
    _, text = page(run)
    assert "`metrics.jsonl` is damaged; its curves are left out." in text


def test_runs_of_one_name_are_told_apart_and_one_given_twice_is_one(tmp_path):
    first, second = (make_run(tmp_path / place / "none") for place in ("a", "b"))
    assert [run.name for run in runs_at(first, second)] == ["a/none", "b/none"]
    assert [run.name for run in runs_at(first, first)] == ["none"]
    nested = make_run(first / "more")
    assert [run.name for run in runs_at(first, nested)] == ["none", "none/more"]


def test_the_same_files_give_the_same_page(tmp_path, audit):
    run = make_run(tmp_path / "run", audit, {"unlearning": unlearning()})
    pages = [jobs.report([run], tmp_path / name).read_bytes() for name in ("a.html", "new/folder/b.html")]
    assert pages[0] == pages[1]


def test_names_and_settings_are_text(tmp_path, page, audit):
    model, kind = {"name": HOSTILE[0]}, {"kind": HOSTILE[1]}
    results = {"unlearning": unlearning(topic=HOSTILE[6], status="<i>")}
    elements, text = page(make_run(tmp_path / "[x]<i>", audit, results, model=model, constraint=kind))
    for tag in ("i", "img"):
        assert elements.all(tag) == []
    assert len(elements.all("script")) == 2
    assert HOSTILE[1] in text
    assert text.count(HOSTILE[6]) >= 2
    assert f"{HOSTILE[0]}, layer 8" in elements.all("p")[0][2]
    assert elements.all("title")[0][2] == "Report of [x]<i>"


def test_the_table_is_that_of_evaluate(tmp_path, page):
    runs = [make_run(tmp_path / f"run{n}", results={"heldout": heldout(l0=30.25 + n)}) for n in range(2)]
    elements, _ = page(*runs)
    cells = [e[2] for e in elements.all("td")]
    assert ["30.2", "31.2"] in [cells[n : n + 2] for n in range(len(cells))]


def test_curves_are_means_of_neighbours():
    points = [(float(n), float(n % 2)) for n in range(1, 1001)]
    thin = thinned(points)
    assert len(thin) == POINTS
    assert thin[0] == (5.0, 3 / 5)
    assert thin[-1][0] == 1000
    assert sum(y for _, y in thin) / len(thin) == pytest.approx(0.5)
    assert thinned(points[:3]) == points[:3]
    assert thinned([]) == []


def test_a_method_is_what_differs_in_sparsity_alone(tmp_path):
    topk = {"kind": "topk", "d_sae": 116}
    full = {"kind": "full", "weight": 0.1}
    runs = runs_at(
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", sparsity={"weight": 0.1}),
        make_run(tmp_path / "c", sparsity={"weight": 0.1}, seed=1),
        make_run(tmp_path / "d", constraint=full),
        make_run(tmp_path / "e", autoencoder=topk | {"k": 8}),
        make_run(tmp_path / "f", autoencoder=topk | {"k": 16}),
    )
    assert methods(runs) == [[0, 1], [4, 5]]


def test_before_is_the_run_without_constraint_that_began_alike(tmp_path):
    full = {"kind": "full", "weight": 0.1}
    runs = runs_at(
        make_run(tmp_path / "other_seed", seed=1),
        make_run(tmp_path / "full", constraint=full),
        make_run(tmp_path / "none"),
        make_run(tmp_path / "wider", constraint=full, autoencoder={"kind": "relu", "d_sae": 200}),
    )
    assert [baseline(runs, n) for n in range(4)] == [None, 2, None, None]


def test_pairs_say_what_they_are_among_and_share_the_page(tmp_path, audit):
    runs = runs_at(*(make_run(tmp_path / f"run{n}", audit) for n in range(2)), make_run(tmp_path / "bare"))
    found = entangled_pairs(runs).findings
    strongest = audit.rankings["information"][0]
    first = [f for f in found if (f.pair.i, f.pair.j) == (strongest.i, strongest.j)]
    assert [f.run for f in first] == [0, 1]
    assert "most information" in first[0].lists
    assert [f.pair.information for f in found] == sorted((f.pair.information for f in found), reverse=True)
    duplicates = {(d.pair.i, d.pair.j) for d in audit.near_duplicates}
    assert {(f.pair.i, f.pair.j) for f in found if "near-duplicate" in f.lists} == duplicates


def test_the_outline_of_a_histogram():
    histogram = Histogram((-3.0, -2.0, -1.0, 0.0), (0, 5, 0), 2)
    assert steps(histogram, log=True) == [(0.01, 5.0), (0.1, 5.0)]
    assert steps(Histogram((0.0, 1.0, 2.0), (3, 4), 0), log=False) == [(0, 3), (1, 3), (1, 4), (2, 4)]
    assert steps(Histogram((0.0, 1.0), (0,), 0), log=False) == []


def test_how_often_features_fire_comes_from_held_out_figures_first(tmp_path, audit):
    density = {"edges": [-2, -1, 0], "counts": [3, 4], "below": 1}
    figures = heldout()
    figures["codes"] = figures["codes"] | {"density": density}
    with_density, without, broken = runs_at(
        make_run(tmp_path / "a", audit, {"heldout": figures}),
        make_run(tmp_path / "b", audit, {"heldout": {}}),
        make_run(tmp_path / "c", results={"heldout": {"codes": {"density": {"edges": [1], "counts": "x"}}}}),
    )
    assert density_of(with_density) == Histogram((-2.0, -1.0, 0.0), (3, 4), 1)
    assert density_of(without) == audit.histograms["firing_rate"]
    assert density_of(broken) is None
    assert used(with_density) == {"active": 110, "dead": 6, "dense": 1}
    assert used(without)["active"] == audit.summary.d_sae - audit.summary.dead


def test_the_score_of_unlearning_with_interval_and_controls(tmp_path, page):
    elements, _ = page(make_run(tmp_path / "run", results={"unlearning": unlearning()}))
    cells = [e[2] for e in elements.all("td") if "data-value" in e[1]]
    assert cells[-10:] == ["0.6 [0.50, 0.70]", "0.09", "0.9", "0.8", "0.03", "-", "-", "0.45", "0.93", "0.97"]


def test_marks_of_unlearning_say_what_was_measured_where(tmp_path, page):
    """The curve is on other passages than the headline and the controls; what has no cost has no mark."""
    controls = {"zero ablation": {"score": 0.2}, "topic direction": {"score": 0.45, "test": {"ce_rise": 0.03}}}
    run = make_run(tmp_path / "run", results={"unlearning": unlearning(controls=controls)})
    elements, text = page(run)
    titles = [e[2] for e in elements.all("title") if e[2].startswith("run, ")]
    assert [t for t in titles if "where chosen" not in t] == [
        "run, topic direction: 0.03, 0.45",
        "run, headline [0.50, 0.70]: 0.09, 0.6",
    ]
    assert len([t for t in titles if "where chosen" in t]) == 4
    looks = [e[1]["class"].split()[1] for e in elements.all("path") if e[1].get("class", "").startswith("mark ")]
    assert looks.count("faint") == 4
    assert looks.count("hollow") == 1
    assert "configurations on the passages they were chosen by" in text
    figure = next(part for part in (tmp_path / "page.html").read_text().split("<figure>") if "where chosen" in part)
    assert 'class="line' not in figure  # they are no frontier


def test_limits_of_unlearning_are_those_of_each_run(tmp_path, page):
    def limits(*given):
        made = [unlearning() | {"settings": {"unlearning": {"ce_rise": limit}}} for limit in given]
        folder = tmp_path / "-".join(map(str, given))
        elements, _ = page(*(make_run(folder / str(n), results={"unlearning": u}) for n, u in enumerate(made)))
        return [e[1].get("data-of") for e in elements.all("path") if e[1].get("class", "").startswith("limit ")]

    assert limits(0.1, 0.1) == [None]
    assert limits(0.1, 0.2) == ["0", "1"]


def test_multiple_choice_comes_after_the_topics(tmp_path, page):
    asked = unlearning(topic="forget") | {"headline": 0.7}
    settings = {"unlearning": {"ce_rise": 0.1, "multiple_choice": {"ce_rise": 0.3}}}
    results = {"unlearning": unlearning() | {"multiple_choice": asked, "settings": settings}}
    elements, _ = page(make_run(tmp_path / "run", results=results))
    captions = [e[2] for e in elements.all("figcaption")]
    assert captions[-2:] == ["sport", "forget (multiple choice)"]
    rows = [e[2] for e in elements.all("th", scope="row")]
    assert rows.index("sport") < rows.index("forget (multiple choice)")


@pytest.mark.parametrize(
    "changes", [{"curve": "x", "headline": None}, {"controls": 3, "headline": {"interval": [0, None]}}]
)
def test_unlearning_of_another_shape_is_no_crash(tmp_path, page, changes):
    _, text = page(make_run(tmp_path / "run", results={"unlearning": unlearning(**changes)}))
    assert "sport" in text


def test_the_verb(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "one")
    assert main(["report", "runs"]) == 0
    assert "Wrote report.html: open it in a browser" in capsys.readouterr().err
    (tmp_path / "there.html").write_text("old")
    assert main(["report", "runs/one", "-o", "there.html"]) == 0
    assert (tmp_path / "there.html").read_bytes() == (tmp_path / "report.html").read_bytes()


def test_mistakes(tmp_path, capsys):
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "There is no run at" in capsys.readouterr().err
    run = make_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    assert main(["report", str(run), "-o", str(tmp_path / "file" / "page.html")]) == 2
    assert "is not a folder" in capsys.readouterr().err
    (run / "results.json").write_text("{")
    assert main(["report", str(run)]) == 2
    assert "is not valid JSON" in capsys.readouterr().err
    with pytest.raises(SleaveError, match="No runs were given"):
        jobs.report([])


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "sleave report runs/none runs/mine -o page.html" in text
    assert "Reads only what is in the run directories" in text


def test_config_values_of_every_toml_type(tmp_path, page):
    """A config.toml may be anything that is TOML."""
    run = make_run(
        tmp_path / "run", seed=[1, 2], training={"steps": "many"}, autoencoder=3, constraint={"weight": True}
    )
    _, text = page(run)
    assert "[1, 2]" in text
    assert json.dumps("many").strip('"') in text
