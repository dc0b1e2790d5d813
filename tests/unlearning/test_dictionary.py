"""What a clamp adds, and how often features fire."""

import pytest
import torch
from two_topics import LAYER

from sleave.activations.scaling import Scaling
from sleave.unlearning.controls import matched_random, probe_direction, random_dictionary
from sleave.unlearning.dictionary import dictionary_of
from sleave.unlearning.search import by_rates

pytestmark = pytest.mark.usefixtures("one_thread")


def dense(sae, documents):
    """Codes of every position, nothing where nothing may be changed."""
    with torch.no_grad():
        return sae.encode(documents.residual) * documents.text[:, None]


def test_clamped_is_the_formula(sae, dictionary, documents):
    features = torch.tensor([2, 11, 29])
    change = dictionary.clamped(features, 0.25)
    acts, unit = dense(sae, documents), torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
    expected = torch.zeros_like(documents.residual)
    norm = documents.residual[documents.text].norm(dim=1).median()
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


def test_units_of_training_count_whatever_the_scaling(sae, documents):
    """A clamp in units where every dimension is twice as large has twice the length there, and the same here."""
    plain = dictionary_of(sae, documents, Scaling.identity(sae.d_in))
    doubled = dictionary_of(sae, documents, Scaling(torch.zeros(sae.d_in), torch.full((sae.d_in,), 2.0)))
    assert doubled.norm == pytest.approx(2 * plain.norm)
    features = torch.tensor([4])
    torch.testing.assert_close(plain.clamped(features, 0.5).delta, doubled.clamped(features, 0.5).delta)


def test_rates_on_some_documents(sae, dictionary, documents):
    some = [0, 1, 8]
    rows = torch.isin(documents.document, torch.tensor(some)) & documents.text
    expected = (dense(sae, documents)[rows] > 0).float().mean(0)
    torch.testing.assert_close(dictionary.rates_on(documents, some), expected)


def test_matched_random_features_are_others_that_fire_as_often(dictionary):
    order = by_rates(dictionary.rates, torch.zeros(30))
    chosen, others = order(1.0)[:3].tolist(), matched_random(lambda tau: order(tau)[:3], dictionary, 0)(1.0).tolist()
    assert len(set(others)) == 3
    assert not set(chosen) & set(others)
    assert others == matched_random(lambda tau: order(tau)[:3], dictionary, 0)(1.0).tolist()


def test_a_random_dictionary_fires_as_often_and_is_another(dictionary, documents):
    other = random_dictionary(dictionary, documents, torch.ones(documents.residual.shape[1]), 5)
    assert float((other.rates - dictionary.rates).abs().max()) < 0.05
    cosine = torch.nn.functional.cosine_similarity(other.directions, dictionary.directions)
    assert float(cosine.abs().mean()) < 0.5
    assert not other.codes.to_dense()[~documents.text].any()


def test_the_probe_s_direction_tells_the_sides_apart(questions, documents):
    forget, retain = questions.of(0, questions.train)
    probe = probe_direction(documents, forget, retain, torch.ones(documents.residual.shape[1]), 1.0)
    assert float(probe.rates_on(documents, forget)[0]) > 2 * float(probe.rates_on(documents, retain)[0])
    assert probe.directions.norm() == pytest.approx(1.0, abs=1e-5)
    assert documents.layer == LAYER
