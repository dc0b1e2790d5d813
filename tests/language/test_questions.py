"""Questions come from files and the hub whatever their order there, and whatever their text holds."""

import json

import datasets
import pytest

from sleave.base.errors import SleaveError
from sleave.language.questions import Question, QuestionSettings, read_question_files


def row(text):
    return {"question": text, "choices": ["x", "y"], "answer": 1}


def write(path, texts, encoding="utf-8"):
    path.write_text("".join(json.dumps(row(t), ensure_ascii=False) + "\n" for t in texts), encoding=encoding)
    return (str(path),)


def test_lines_end_at_line_ends_alone(tmp_path):
    paths = write(tmp_path / "q.jsonl", ["one\u2028two", "three\u0085four"])
    assert {q.question for q in read_question_files(QuestionSettings(paths=paths))} == {
        "one\u2028two",
        "three\u0085four",
    }


def test_a_byte_order_mark_is_no_text(tmp_path):
    paths = write(tmp_path / "q.jsonl", ["Which?"], encoding="utf-8-sig")
    assert read_question_files(QuestionSettings(paths=paths)) == [Question("Which?", ("x", "y"), 1)]


SORTED = [f"{subject} {n}?" for subject in ("anatomy", "law", "virology") for n in range(100)]


def check_mixed(read):
    """Some of every subject, the same again, and others with another seed."""
    first, again, other = read(seed=0), read(seed=0), read(seed=1)
    assert len(first) == 60
    assert {q.question.split()[0] for q in first} == {"anatomy", "law", "virology"}
    assert first == again != other
    assert len(set(first)) == 60


def test_files_that_are_sorted_by_subject_are_mixed_before_they_are_cut(tmp_path):
    paths = write(tmp_path / "q.jsonl", SORTED)
    check_mixed(lambda seed: read_question_files(QuestionSettings(paths=paths, most=60, seed=seed)))


def test_so_are_datasets_on_the_hub(monkeypatch):
    there = datasets.Dataset.from_list([row(t) for t in SORTED]).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: there)
    check_mixed(lambda seed: read_question_files(QuestionSettings(hub="some/mmlu", most=60, seed=seed)))


def test_a_row_that_is_no_question_is_told_by_its_place_in_the_file(tmp_path):
    write(tmp_path / "a.jsonl", SORTED[:5])
    (tmp_path / "b.jsonl").write_text(json.dumps(row("?")) + "\n{}\n")
    with pytest.raises(SleaveError, match=r"Question 2 of `.*b.jsonl` must have question"):
        read_question_files(QuestionSettings(paths=(str(tmp_path / "*.jsonl"),)))
