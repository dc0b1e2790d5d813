import csv
import io

import pytest
from rich.console import Console

from sleave.base.errors import SleaveError
from sleave.evaluation.table import screen_table, warnings, write_table

WHOLE = {
    "training": {
        "architecture": "topk",
        "constraint": "mi",
        "seconds_per_step": 0.12345,
        "peak_memory_bytes": 2_340_000_000,
    },
    "heldout": {
        "rows": 16_384,
        "scaled": {"mse": 123.456, "fvu": 0.12345},
        "raw": {"fvu": 0.2},
        "codes": {"l0": 45.67, "l1": 8.9, "active": 12345, "dead": 7},
        "correlation": {
            "peak_cosine": 0.98765,
            "peak_cosine_often": 0.5,
            "p999_cosine": 0.25,
            "mean_cosine": 0.0123456,
            "p999_pearson": 0.125,
            "mean_pearson": 0.001,
        },
        "information": {"p999": 0.01, "mean": 0.000123, "activity_noticeable": 0.00125},
    },
}
PART = {"training": {"seconds_per_step": 2.0}, "heldout": {"scaled": {"fvu": 0.5}}}
RUNS = {"runs/a": WHOLE, "runs/b, 2|3": PART}


def test_csv(tmp_path):
    write_table(tmp_path / "t.csv", RUNS)
    head, a, b = csv.reader(io.StringIO((tmp_path / "t.csv").read_text()))
    of = {name: (x, y) for name, x, y in zip(head, a, b, strict=True)}
    assert of == {
        "run": ("runs/a", "runs/b, 2|3"),
        "architecture": ("topk", "-"),
        "constraint": ("mi", "-"),
        "MSE": ("123.5", "-"),
        "FVU": ("0.1235", "0.5000"),
        "FVU, raw": ("0.2000", "-"),
        "L0": ("45.7", "-"),
        "L1": ("8.9", "-"),
        "peak |C|": ("0.988", "-"),
        "peak |C|, 10 rows": ("0.500", "-"),
        "held-out rows": ("16384", "-"),
        "99.9th percentile of |C|": ("0.2500", "-"),
        "mean |C|": ("0.01235", "-"),
        "99.9th percentile of |r|": ("0.1250", "-"),
        "mean |r|": ("0.00100", "-"),
        "99.9th percentile of I": ("0.01000", "-"),
        "mean I": ("0.000123", "-"),
        "pairs, activity I > 0.01": ("0.00125", "-"),
        "active features": ("12345", "-"),  # a number, for whatever reads it
        "dead features": ("7", "-"),
        "seconds/step": ("0.123", "2.000"),
        "peak memory, GB": ("2.34", "-"),
    }


def test_markdown(tmp_path):
    write_table(tmp_path / "t.md", RUNS)
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert lines[:6] == [
        "| run | runs/a | runs/b, 2\\|3 |",
        "| --- | ---: | ---: |",
        "| architecture | topk | - |",
        "| constraint | mi | - |",
        "| held-out rows | 16,384 | - |",
        "| 99.9th percentile of \\|C\\| | 0.2500 | - |",
    ]
    assert "| FVU | 0.1235 | 0.5000 |" in lines
    assert "| peak \\|C\\| | 0.988 | - |" in lines
    assert "| active features | 12,345 | - |" in lines
    assert len(lines) == 23


def test_screen():
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(screen_table(RUNS))
    text = console.export_text()
    for part in (" a ", "b, 2|3", "FVU, raw", "12,345", "0.1235", "cosine of two features"):
        assert part in text


def test_few_heldout_rows_are_warned_of():
    few = {**WHOLE, "heldout": {**WHOLE["heldout"], "rows": 81}}
    assert warnings(RUNS) == []
    (warning,) = warnings({**RUNS, "runs/few": few})
    assert "Fewer than 2,000 held-out rows for runs/few:" in warning


def test_another_suffix(tmp_path):
    with pytest.raises(SleaveError, match=r"\.csv or \.md; `.*t\.xlsx` ends in neither"):
        write_table(tmp_path / "t.xlsx", RUNS)
    assert not list(tmp_path.iterdir())
