"""Forgetting answers to questions from a small file; the tiny model knows some by luck."""

import json

import pytest
import torch

from sleave.activations.scaling import Scaling
from sleave.base.errors import SleaveError
from sleave.language.questions import Question, QuestionSettings, read_question_files
from sleave.unlearning.forgetting import forget
from sleave.unlearning.multiple_choice import orders_of, read_multiple_choice
from sleave.unlearning.settings import MultipleChoiceSettings

pytestmark = pytest.mark.usefixtures("one_thread")
WORDS = ("oil", "ice", "phone", "match", "moon", "goal", "team", "water", "city", "line")


def write_questions(path, subject, count):
    rows = [
        {
            "question": f"{subject} {WORDS[n % 10]}?",
            "choices": [WORDS[(n + 1) % 10], WORDS[(n * 3) % 10]],
            "answer": n % 2,
        }
        for n in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return QuestionSettings(paths=(str(path),))


@pytest.fixture
def settings(tmp_path):
    sides = [write_questions(tmp_path / f"{name}.jsonl", name, 80) for name in ("The", "A")]
    return MultipleChoiceSettings(forget=sides[0], retain=sides[1], train=10, orders=1, documents=8, retain_accuracy=0)


def test_answers_are_forgotten(model, sae, settings):
    sides = [read_question_files(side) for side in (settings.forget, settings.retain)]
    questions = read_multiple_choice(model, *sides, 0, settings)
    assert [len(k) for k in questions.known] == [
        min(2 * settings.documents, sum(right_by_hand(model, q) for q in side[settings.train :])) for side in sides
    ]
    (result,) = forget(sae, questions, Scaling.identity(sae.d_in), settings)
    assert (result.topic, result.status) == ("forget", "ok")
    assert 0 <= result.headline.score <= 1
    assert result.headline.dev.ce_rise <= settings.ce_rise
    assert result.controls["zero ablation"].status in ("ok", "infeasible")


def right_by_hand(model, question):
    letters = [model.tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in "AB"]
    ids = [model.tokenizer.bos_token_id, *model.tokenizer(question.prompt(), add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        logits = model._model(torch.tensor([ids])).logits[0, -1]
    return int(logits[[i for (i,) in letters]].argmax()) == question.answer


def test_the_prompt_in_another_order():
    question = Question("Which?", ("x", "y", "z"), 2)
    assert question.prompt() == "Which?\nA. x\nB. y\nC. z\nAnswer:"
    assert question.prompt((2, 0, 1)) == "Which?\nA. z\nB. x\nC. y\nAnswer:"


def test_orders_put_every_choice_everywhere():
    assert sorted(orders_of(4, 24)) == sorted(set(orders_of(4, 24)))
    assert len(orders_of(4, 24)) == 24
    drawn = orders_of(5, 24)
    assert len(set(drawn)) == 24
    assert all({order.index(choice) for order in drawn} == set(range(5)) for choice in range(5))
    assert drawn == orders_of(5, 24)


def test_too_few_questions(model, settings):
    sides = [read_question_files(side) for side in (settings.forget, settings.retain)]
    with pytest.raises(SleaveError, match=r"questions to retain there are 4, .* first 10 \(`train`\)"):
        read_multiple_choice(model, sides[0], sides[1][:4], 0, settings)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"question": "Which?", "choices": ["x", "y"]}', "must have question, choices and answer; it has question"),
        ('{"question": "Which?", "choices": ["x", "y"], "answer": 2}', r"`answer` \(= 2\) must be .* 0 to 1"),
        ('{"question": "Which?", "choices": ["x"], "answer": 0}', "`choices` a list of 2 to 8"),
        ('["Which?"]', "it is"),
        ("{", "cannot be read as .jsonl"),
    ],
)
def test_what_is_no_question(tmp_path, line, message):
    (tmp_path / "q.jsonl").write_text(line)
    with pytest.raises(SleaveError, match=message):
        read_question_files(QuestionSettings(paths=(str(tmp_path / "q.jsonl"),)))


def test_where_questions_are_not(tmp_path):
    with pytest.raises(SleaveError, match="either from `paths`"):
        read_question_files(QuestionSettings())
    with pytest.raises(SleaveError, match="matches no file"):
        read_question_files(QuestionSettings(paths=(str(tmp_path / "*.jsonl"),)))
    (tmp_path / "q.csv").write_text("x")
    with pytest.raises(SleaveError, match=r"allowed: .jsonl and .parquet"):
        read_question_files(QuestionSettings(paths=(str(tmp_path / "q.csv"),)))
