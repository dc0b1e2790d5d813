"""The examples run, and show what they say."""

import re
import runpy
from pathlib import Path

import peers  # noqa: F401  # with which dictionary_learning can be imported
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["sae_lens_trainer", "dictionary_learning_trainer"])
def test_examples(name, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    out = capsys.readouterr().out
    figures = re.findall(r"(with|without): L0 ([\d.]+), FVU ([\d.]+)", out)
    assert [name for name, *_ in figures] == ["without", "with"]
    assert all(5 < float(l0) < 7 and float(fvu) < 0.15 for _, l0, fvu in figures)
    cosines = [float(c) for c in re.findall(r"cosine of codes ([\d.]+)", out)]
    assert len(cosines) == 6
    assert max(cosines[3:]) < 0.8 * max(cosines[:3])
