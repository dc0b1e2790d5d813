"""What a clamp adds, and how often features fire."""

from dataclasses import replace

import pytest
import torch

from sleave.activations.scaling import Scaling
from sleave.unlearning.controls import matched_random, random_dictionary, topic_direction
from sleave.unlearning.dictionary import dictionary_of
from sleave.unlearning.task import Task

pytestmark = pytest.mark.usefixtures("one_thread")


def dense(sae, documents):
    """Codes of every position, nothing where nothing may be changed."""
    with torch.no_grad():
        return sae.encode(documents.residual) * documents.text[:, None]


def test_clamped_is_the_formula(sae, dictionary, documents, questions):
    features = torch.tensor([2, 11, 29])
    change = dictionary.clamped(features, 0.25)
    acts, unit = dense(sae, documents), torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
    expected = torch.zeros_like(documents.residual)
    norm = documents.residual[documents.rows(questions.all_train)].norm(dim=1).median()
    for f in features.tolist():
        fires = acts[:, f] > 0
        expected[fires] += -0.25 * norm * unit[f] - acts[fires, f][:, None] * sae.W_dec.detach()[f]
    touched = expected.abs().sum(1) > 0
    assert change.position.tolist() == touched.nonzero().flatten().tolist()
    torch.testing.assert_close(change.delta, expected[touched], rtol=1e-4, atol=1e-5)


def test_an_absolute_clamp_counts_in_units_of_the_activations(sae, dictionary, documents):
    feature = int(dictionary.codes.fired.argmax())
    change = dictionary.clamped(torch.tensor([feature]), 0.0, absolute=3.0)
    left = dense(sae, documents)[change.position, feature][:, None] * sae.W_dec.detach()[feature] + change.delta
    torch.testing.assert_close(left.norm(dim=1), torch.full((len(left),), 3.0), rtol=1e-4, atol=1e-4)


def test_units_of_training_count_whatever_the_scaling(sae, documents, questions):
    """A clamp in units where every dimension is twice as large has twice the length there, and the same here."""
    plain = dictionary_of(sae, documents, Scaling.identity(sae.d_in), questions.all_train)
    twice = Scaling(torch.zeros(sae.d_in), torch.full((sae.d_in,), 2.0))
    doubled = dictionary_of(sae, documents, twice, questions.all_train)
    assert doubled.norm == pytest.approx(2 * plain.norm)
    features = torch.tensor([4])
    torch.testing.assert_close(plain.clamped(features, 0.5).delta, doubled.clamped(features, 0.5).delta)


def test_rates_on_some_documents(sae, dictionary, documents):
    some = [0, 1, 8]
    rows = torch.isin(documents.document, torch.tensor(some)) & documents.text
    expected = (dense(sae, documents)[rows] > 0).float().mean(0)
    torch.testing.assert_close(dictionary.rates_on(documents, some), expected)


def test_matched_random_features_are_others_that_fire_as_often(dictionary):
    """Each takes the place of the one that it is matched to, so that the first n are matched to the first n."""
    rates = torch.linspace(0.001, 0.5, 200)
    other = replace(dictionary, rates=rates, directions=torch.zeros(200, 16), lengths=torch.ones(200))
    chosen = [180, 30, 120, 75, 5]
    for seed in range(5):
        partners = matched_random(lambda tau: torch.tensor(chosen), other, seed, 4)(1.0).tolist()
        assert len(set(partners)) == 4
        assert not set(chosen) & set(partners)
        assert all(abs(f - p) <= 20 for f, p in zip(chosen, partners, strict=False))
    assert partners == matched_random(lambda tau: torch.tensor(chosen), other, 4, 4)(1.0).tolist()


def test_a_feature_without_another_near_it_has_no_partner(dictionary):
    everything = torch.arange(30)
    assert len(matched_random(lambda tau: everything, dictionary, 0, 30)(1.0)) == 0


def test_a_random_dictionary_fires_as_often_and_is_another(dictionary, questions, documents):
    other = random_dictionary(dictionary, questions, torch.ones(documents.residual.shape[1]), 5)
    train = documents.rows(questions.all_train)
    torch.testing.assert_close(other.rates, dictionary.rates, rtol=0, atol=1.5 / float(train.sum()))
    cosine = torch.nn.functional.cosine_similarity(other.directions, dictionary.directions)
    assert float(cosine.abs().mean()) < 0.5
    dense = other.codes.to_dense()
    assert not dense[~documents.text].any()
    projection = (documents.residual - documents.residual[train].mean(0)) @ other.directions.t()
    fires = dense > 0
    gap = (projection - dense)[fires[:, 3], 3]  # one threshold for all rows
    torch.testing.assert_close(gap, gap[:1].expand_as(gap), rtol=1e-4, atol=1e-4)


def test_a_topic_s_direction_tells_the_sides_apart(questions, documents, settings):
    task = Task.of(questions, 0, settings.documents)
    assert task is not None
    probe = topic_direction(task, torch.ones(documents.residual.shape[1]), 1.0)
    forget, retain = task.train
    assert float(probe.rates_on(documents, forget)[0]) > 2 * float(probe.rates_on(documents, retain)[0])
    assert probe.directions.norm() == pytest.approx(1.0, abs=1e-5)
    assert float(probe.rates[0]) == pytest.approx(0.1, abs=0.002)
