"""Which configuration is found, and what is said when there is none."""

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sleave.unlearning.questions import Questions
from sleave.unlearning.results import Found, Outcome, TopicResult, compared_with_random, is_clear, summarised
from sleave.unlearning.search import SCALED, Asked, Grid, Limits, Trial, best, by_rates, configurations, search
from sleave.unlearning.task import Task

pytestmark = pytest.mark.usefixtures("one_thread")
GRID = Grid((0.5, 2.0), (1, 3), (0.5, 4.0))


@pytest.fixture(scope="module")
def task(questions, settings):
    task = Task.of(questions, 0, settings.documents)
    assert task is not None
    return task


@pytest.fixture(scope="module")
def trials(task, dictionary):
    return search(task.dev, dictionary, task.order(dictionary), GRID)


def test_dev_test_and_train_share_no_document(questions, task):
    sides = [task.dev.sides.forget, task.dev.sides.retain, task.test.sides.forget, task.test.sides.retain]
    everything = [d for side in (*sides, *questions.train) for d in side]
    assert len(everything) == len(set(everything))
    assert all(questions.topic[d] == 0 for d in (*sides[0], *sides[2]))
    assert all(questions.topic[d] == 1 for d in (*sides[1], *sides[3]))


def test_known_documents_are_all_right_without_a_change(questions, task):
    known = [*task.dev.sides.forget, *task.dev.sides.retain, *task.test.sides.forget]
    documents = questions.documents
    assert documents.right(known, questions.judge, documents.finals(known)).tolist() == [1.0] * len(known)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20), st.floats(0, 1))
def test_the_published_order(rates, tau):
    forget, retain = (torch.tensor(column) for column in zip(*rates, strict=True))
    order = by_rates(forget, retain)(tau).tolist()
    tau = float(torch.tensor(tau))  # as float32 has it
    assert set(order) == {n for n, (f, r) in enumerate(zip(forget, retain, strict=True)) if r <= tau and f > 0}
    assert all(forget[a] >= forget[b] for a, b in pairwise(order))


def test_configurations_that_come_to_the_same_are_tried_once(dictionary):
    order = by_rates(dictionary.rates, torch.zeros(30))  # tau takes none away
    found = configurations(SCALED, dictionary, order)
    assert len({(c.features, c.m) for c in found}) == len(found) == 5 * 4
    assert all(c.tau == pytest.approx(0.5 * float(dictionary.rates.mean())) for c in found)


def test_the_best_is_that_of_brute_force(task, trials, settings):
    """Every configuration, both sides and the loss of each, by hand."""
    assert len({t.forget for t in trials}) > 1  # there is something to choose
    for least, rise in product((0.5, 0.9, 1.0), (0.001, 0.05, 10.0)):
        limits = Limits(least, rise)
        kept = [t for t in trials if t.retain >= least and task.dev.ce_rise(t.change) <= rise]
        found = best(trials, task.test, limits)
        assert found.status == ("ok" if kept else "infeasible")
        if kept:
            assert found.dev.forget == min(t.forget for t in kept)
            again = task.test.forget(next(t.change for t in trials if t.configuration == found.configuration))
            assert found.score == pytest.approx(float(1 - again.mean()))


def test_weaker_clamps_of_what_forgets_nothing_are_not_asked_about(task, dictionary, monkeypatch):
    asked = []
    forget = Asked.forget
    monkeypatch.setattr(Asked, "forget", lambda self, change: asked.append(change) or forget(self, change))
    order = by_rates(dictionary.rates, torch.zeros(30))
    slight = search(task.dev, dictionary, order, Grid((1.0,), (1, 3), (1e-4, 1e-5, 1e-6)))
    assert [t.forget for t in slight] == [1.0] * 6
    assert len(asked) == 2  # the strongest clamp of each number of features
    strong = search(task.dev, dictionary, order, Grid((1.0,), (30,), (4.0, 8.0, 16.0)))
    assert all(t.forget < 1 for t in strong)
    assert len(asked) == 2 + 3


def test_documents_that_are_not_touched_are_right(task, trials):
    for trial in trials:
        documents, some = task.dev.documents, task.dev.sides.forget
        everything = documents.right(some, task.dev.judge, documents.finals(some, trial.change))
        assert torch.equal(task.dev.forget(trial.change), everything)


def test_limits_that_the_test_documents_break_are_named(task, trials):
    harmful = next(t for t in trials if task.test.retain(t.change) < 1 and task.test.ce_rise(t.change) > 0)
    free = best([harmful], task.test, Limits(0.0))
    assert free.violations == ()
    trial = Trial(harmful.configuration, harmful.change, task.dev, harmful.forget)
    vars(trial).update(retain=1.0, ce_rise=0.0)  # as if it did no harm to the dev documents
    broken = best([trial], task.test, Limits(1.0, 0.0))
    assert broken.score == free.score
    assert [v.split(" 0")[0] for v in broken.violations] == ["retain accuracy", "the loss rises by"]


def test_no_feature_that_fires_on_the_topic(task, dictionary):
    order = by_rates(torch.zeros(30), torch.zeros(30))
    assert best(search(task.dev, dictionary, order, GRID), task.test, Limits(0)).status == "no_candidates"


def asked(questions, *known):
    return Questions(questions.documents, tuple("abcd"), questions.topic, ((),) * 4, known, questions.judge)


def test_too_few_known_documents(questions):
    """Of the topic itself 16 will do; the limits rest on as many retained ones as are wanted."""
    many, few = tuple(range(100)), (0, 1)
    task = Task.of(asked(questions, many, many, many, few), 0, 64)
    assert task is not None
    assert [len(s) for s in (task.dev.sides.forget, task.dev.sides.retain, task.test.sides.retain)] == [50, 64, 64]
    assert Task.of(asked(questions, many, few, few, few), 0, 64) is None
    assert Task.of(asked(questions, few, many, many, many), 0, 64) is None


def ok(*forgotten: float, violations: tuple[str, ...] = ()) -> Found:
    score = sum(forgotten) / len(forgotten)
    outcome = Outcome(1 - score, 1.0, 0.05)
    return Found("ok", score, (score - 0.1, score + 0.1), None, outcome, outcome, violations, 60, forgotten)


def result(headline: Found, **controls: Found) -> TopicResult:
    named = {name.replace("_", " "): found for name, found in controls.items()}
    return TopicResult("a", headline.status, headline, headline, headline, named, compared_with_random(headline, named))


def test_a_headline_is_clear_of_random_controls_only_by_more_than_chance():
    nothing, some = ok(*[0.0] * 40), ok(*[1.0] * 8, *[0.0] * 32)
    assert is_clear(result(some, random_features_0=nothing))
    assert is_clear(result(some, random_features_0=Found("infeasible")))  # which forgets nothing
    assert not is_clear(result(some, random_dictionary=ok(*[1.0] * 6, *[0.0] * 34)))
    assert not is_clear(result(ok(1.0, *[0.0] * 39), random_features_0=nothing))
    assert not is_clear(result(ok(*[1.0] * 40, violations=("the loss rises",)), random_features_0=nothing))
    assert not is_clear(result(Found("infeasible"), random_features_0=nothing))
    assert not is_clear(result(some))  # nothing to be compared with


def test_topics_together():
    good = result(ok(1.0, 1.0, 0.0, 0.0), random_features_0=ok(0.2, 0.0, 0.0, 0.0))
    poor = result(ok(0.2, 0.2, 0.0, 0.0, violations=("x",)), random_dictionary=ok(0.2, 0.2, 0.0, 0.0))
    hopeless, unknown = result(Found("infeasible")), result(Found("too_few_known"))
    together = summarised([good, poor, hopeless, unknown])
    assert (together.status, together.topics_ok, together.violated) == ("ok", 2, 1)
    assert together.headline == pytest.approx((0.5 + 0.1 + 0) / 3)
    assert together.random == pytest.approx((0.05 + 0.1) / 2)
    assert together.published_ce_rise == pytest.approx((0.05 + 0.05 + 0) / 3)
    half = (0.1**2 + 0.1**2) ** 0.5 / 3
    assert together.intervals["headline"] == pytest.approx((0.2 - half, 0.2 + half))
    nothing = summarised([hopeless, unknown])
    assert (nothing.status, nothing.headline) == ("infeasible", None)
    assert "No configuration keeps" in nothing.why
