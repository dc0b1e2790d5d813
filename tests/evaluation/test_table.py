"""The table: what is in it, with its intervals and differences, on screen, in Markdown and in CSV."""

import csv
import io
from copy import deepcopy

import pytest
from rich.console import Console

from sleave.base.errors import SleaveError
from sleave.evaluation.compare import compare
from sleave.evaluation.table import figure_tables, screen_comparison, short_names, warnings, write_table

WHOLE = {
    "training": {
        "architecture": "topk",
        "constraint": "none",
        "seconds_per_step": 0.12345,
        "peak_memory_bytes": 2_340_000_000,
    },
    "heldout": {
        "rows": 16_384,
        "scaled": {"mse": 123.456, "fvu": 0.5},
        "codes": {"l0": 50.0, "dead": 1234},
        "correlation": {"p999_cosine": 0.25},
        "groups": {"scaled.fvu": [0.49, 0.5, 0.51], "codes.l0": [50.0, 50.0, 50.0]},
    },
    "fidelity": {"status": "ok", "ce_loss_score": 0.9, "intervals": {"ce_loss_score": [0.8, 0.95]}},
    "unlearning": {"status": "too_few_known", "headline": None},
}
PART = {
    "training": {"architecture": "topk", "constraint": "mi", "seconds_per_step": 2.0},
    "heldout": {
        "scaled": {"fvu": 0.6},
        "codes": {"l0": 50.0},
        "groups": {"scaled.fvu": [0.59, 0.6, 0.61], "codes.l0": [50.0, 50.0, 50.0]},
    },
}
RUNS = {"runs/a": WHOLE, "runs/b, 2|3": PART}


def lines(tmp_path, name):
    write_table(tmp_path / name, RUNS, compare(RUNS))
    return (tmp_path / name).read_text()


def test_csv(tmp_path):
    a, b = csv.DictReader(io.StringIO(lines(tmp_path, "t.csv")))
    assert a == {
        "run": "runs/a",
        "architecture": "topk",
        "constraint": "none",
        "held-out rows": "16384",  # a number, for whatever reads it
        "MSE": "123.5",
        "FVU": "0.5000",
        "FVU, low": "0.4503",  # t(2) = 4.303 and se = 0.01 sqrt(4/3)
        "FVU, high": "0.5497",
        "L0": "50.0",
        "L0, low": "50.0",
        "L0, high": "50.0",
        "dead features": "1234",
        "99.9th percentile of |C|": "0.2500",
        "CE loss score": "0.9000",
        "CE loss score, low": "0.8000",
        "CE loss score, high": "0.9500",
        "seconds/step": "0.123",
        "peak memory, GB": "2.34",
        **dict.fromkeys(b.keys() - a.keys() | {k for k in b if a[k] == "-"}, "-"),
    }
    assert {k: v for k, v in b.items() if k.startswith("FVU")} == {
        "FVU": "0.6000",
        "FVU, low": "0.5503",
        "FVU, high": "0.6497",
        "FVU, difference": "0.1000",
        "FVU, difference, low": "0.1000",  # the same documents are hard for both
        "FVU, difference, high": "0.1000",
        "FVU, verdict": "worse",
    }
    assert (b["baseline"], b["notes"], a["baseline"]) == ("runs/a", "-", "-")
    assert b["seconds/step, verdict"] == b["CE loss score"] == "-"


def test_csv_of_several_seeds(tmp_path):
    """What the seeds have together is in a row of its own, beside none of theirs."""
    seeds = {f"b{n}": deepcopy(PART) for n in range(2)}
    for n, results in enumerate(seeds.values()):
        results["training"] |= {"recipe": "b", "seed": n}
        results["heldout"] |= {"rows": 1000, "scaled": {"fvu": 0.6 + n / 10}, "codes": {"l0": 60.0}}
    runs = {"a": WHOLE, **seeds}
    write_table(tmp_path / "t.csv", runs, compare(runs))
    a, *each, both = csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text()))
    assert [(e["run"], e["FVU"], e["FVU, difference"]) for e in each] == [("b0", "0.6000", "-"), ("b1", "0.7000", "-")]
    assert (both["run"], both["FVU"], both["FVU, difference"]) == ("b0 and 1 more seeds", "0.6500", "0.1500")
    assert (both["held-out rows"], both["constraint"]) == ("1000", "mi")
    assert (both["baseline"], both["notes"]) == ("a", "not at like L0, so no verdicts: 60 against 50")
    assert {row["notes"] for row in (a, *each)} == {"-"}


def test_markdown(tmp_path):
    text = lines(tmp_path, "t.md").splitlines()
    assert text[:6] == [
        "| run | a | b, 2\\|3 |",
        "| --- | ---: | ---: |",
        "| architecture | topk | topk |",
        "| constraint | none | mi |",
        "| held-out rows | 16,384 | - |",
        "| MSE | 123.5 | - |",
    ]
    for row in (
        "| FVU | 0.5000 ±0.0497 | 0.6000 ±0.0497 |",
        "| dead features | 1,234 | - |",
        "| CE loss score | 0.9000 [0.8000, 0.9500] | - |",
        "| unlearning | too_few_known | - |",
        "| less the baseline | b, 2\\|3 |",
        "| FVU | +0.1000 ±0.0000 (+20.0%) worse |",
        "| L0 | 0.0 ±0.0 |",
        "| seconds/step | +1.877 |",
        "* b, 2|3: against a.",
    ):
        assert row in text
    assert not any("MCC" in row or "mean I" in row for row in text)  # which nobody measured


def test_without_a_comparison_there_is_none(tmp_path):
    write_table(tmp_path / "t.md", RUNS)
    assert "baseline" not in (tmp_path / "t.md").read_text()


def test_screen():
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(*figure_tables(RUNS, 100))
    console.print(screen_comparison(compare(RUNS), short_names(list(RUNS))))
    text = console.export_text()
    for part in (" a ", "b, 2|3", "0.5000 ±0.0497", "1,234", "cosine of two", "too_few_known", "b, 2|3: against a."):
        assert part in text
    assert "+0.1000 ±0.0000 (+20.0%) worse" in text


def test_as_many_runs_beside_each_other_as_there_is_room_for():
    many = {f"runs/[b]{n}": WHOLE for n in range(5)}
    tables = figure_tables(many, 100)
    assert [len(table.columns) - 1 for table in tables] == [3, 2]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(*tables)
    text = console.export_text()
    assert all(text.count(f" [b]{n} ") == 1 for n in range(5))  # a name is no markup
    assert text.count("cosine of two") == 1  # the legend, below the last
    assert len(figure_tables(many, 20)) == 5


def test_few_heldout_rows_are_warned_of():
    few = {**WHOLE, "heldout": {**WHOLE["heldout"], "rows": 81}}
    assert warnings(RUNS) == []
    (warning,) = warnings({**RUNS, "runs/few": few})
    assert "Fewer than 2,000 held-out rows for runs/few:" in warning


def test_another_suffix(tmp_path):
    with pytest.raises(SleaveError, match=r"\.csv or \.md; `.*t\.xlsx` ends in neither"):
        write_table(tmp_path / "t.xlsx", RUNS)
    assert not list(tmp_path.iterdir())
