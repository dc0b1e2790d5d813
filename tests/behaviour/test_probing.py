"""Probes are scikit-learn's, features are ranked whatever their units, and planted topics are found."""

import random

import pytest
import tiny
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.preprocessing import StandardScaler

from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.behaviour import probes
from sleave.behaviour import probing as module
from sleave.behaviour.probes import fit_probe, largest, separation
from sleave.behaviour.probing import ProbingSettings, pooled, probing
from sleave.language.contexts import Context
from sleave.language.passages import Passage
from sleave.language.settings import ModelSettings
from sleave.language.whole import WholeModel

pytestmark = pytest.mark.usefixtures("one_thread")
D_IN = 16
TOPICS = {"ice": 50, "oil": 150, "tea": 250}  # each with a token that only its passages have


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tiny.make_tiny_model(tmp_path_factory.mktemp("model"), "llama")
    return WholeModel.load(ModelSettings(name=str(folder), dtype="float32", layers=(0,), device="cpu"))


def make_passages(count, planted=True):
    draw = random.Random(0)
    made = []
    for n in range(count):
        topic = list(TOPICS)[n % len(TOPICS)]
        others = [t for t in range(3, 400) if t not in TOPICS.values()]
        tokens = draw.choices(others, k=draw.randint(5, 9)) + [TOPICS[topic]] * 3 * planted
        made.append(Passage(Context((1, *tokens), (False, *[True] * len(tokens)), n), topic))
    return made


@pytest.fixture(scope="module")
def sae():
    """One of random directions."""
    sae = ReLUAutoencoder(D_IN, 12)
    with torch.no_grad():
        sae.W_dec.copy_(torch.randn(12, D_IN, generator=torch.Generator().manual_seed(0)))
        sae.W_enc.copy_(sae.W_dec.t())
    return sae.requires_grad_(False)


def test_a_probe_is_scikit_learns_on_standardised_columns():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 5, generator=g) * torch.tensor([1, 10, 0.1, 1, 1]) + 3
    x[:, 4] = 2  # a column that says nothing
    yes = x[:, 0] + x[:, 1] / 10 > torch.randn(200, generator=g) + 6
    scaler = StandardScaler().fit(x.double().numpy())
    model = LogisticRegression(C=0.25, class_weight="balanced", max_iter=1000)
    model.fit(scaler.transform(x.double().numpy()), yes.numpy())
    expected = model.decision_function(scaler.transform(x.double().numpy()))
    found = fit_probe(x, yes, regularisation=4.0).scores(x)
    torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=1e-3, atol=1e-3)


def test_separation_is_the_standardised_difference_whatever_the_units():
    codes = torch.tensor([[1.0, 0, 0], [3.0, 0, 5], [0.0, 0, 5], [0.0, 0, 0]])
    yes = torch.tensor([True, True, False, False])
    found = separation(codes, yes)
    torch.testing.assert_close(found, torch.tensor([2 / 0.5**0.5, 0, 0]))
    torch.testing.assert_close(separation(codes * torch.tensor([7.0, 1, 2]), yes), found)
    assert largest(torch.tensor([1.0, 5, 5, 2]), 3).tolist() == [1, 2, 3]


def test_means_over_a_passage_are_over_its_text_alone(whole, sae, monkeypatch):
    texts = make_passages(7)
    monkeypatch.setattr(module, "BATCH_TOKENS", 25)  # several batches, with padding
    x, codes = pooled(sae, whole, 0, texts)
    for n, passage in enumerate(texts):
        rows = whole.residuals([passage.context], 0)[0, 1:]
        torch.testing.assert_close(x[n], rows.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(codes[n], sae.encode(rows).mean(0), rtol=1e-4, atol=1e-5)


def test_planted_topics_are_found_by_their_features(whole, sae, monkeypatch):
    """Feature n fires on topic n, in units of its own; feature 3 on half of the first topic; the others anywhere."""

    def planted(sae, model, layer, texts):
        g = torch.Generator().manual_seed(0)
        topic = torch.tensor([sorted(TOPICS).index(p.topic) for p in texts])
        codes = torch.rand(len(texts), 12, generator=g)
        codes[:, :3] = torch.eye(3)[topic] * torch.tensor([0.01, 1, 100]) * (0.5 + codes[:, :3])
        codes[:, 3] *= (topic == 0) & (torch.rand(len(texts), generator=g) < 0.5)
        return torch.rand(len(texts), D_IN, generator=g), codes

    monkeypatch.setattr(module, "pooled", planted)
    found = probing(sae, whole, 0, make_passages(180), ProbingSettings(passages_per_topic=50))
    assert (found.status, found.topics, found.passages, found.chance) == ("ok", 3, 50, 0.5)
    assert [found.by_topic[name]["features"][0] for name in sorted(TOPICS)] == [0, 1, 2]
    assert found.by_topic[min(TOPICS)]["features"][1] == 3
    assert found.accuracy_1 == 1
    assert found.accuracy_dense == pytest.approx(0.5, abs=0.15)


def test_the_model_s_own_activations_tell_planted_topics(whole, sae):
    found = probing(sae, whole, 0, make_passages(180), ProbingSettings(passages_per_topic=50))
    assert found.accuracy_dense > 0.75
    assert 0.6 < found.accuracy_1 < found.accuracy_dense
    low, high = found.intervals["accuracy_1"]
    assert low <= found.accuracy_1 <= high
    assert found.accuracy_5 == pytest.approx(sum(t["accuracy_5"] for t in found.by_topic.values()) / 3)


def test_where_there_is_nothing_to_find_it_is_chance(whole, sae):
    found = probing(sae, whole, 0, make_passages(300, planted=False), ProbingSettings(passages_per_topic=100))
    assert found.accuracy_1 == pytest.approx(0.5, abs=0.1)
    assert found.accuracy_dense == pytest.approx(0.5, abs=0.1)


def test_accuracy_is_balanced():
    g = torch.Generator().manual_seed(0)
    yes, said = torch.rand(90, generator=g) < 0.2, torch.rand(90, 2, generator=g) < 0.4
    counts = module._hits(said, yes).sum(0).unflatten(0, (2, 2, 2))
    expected = [balanced_accuracy_score(yes.numpy(), said[:, n].numpy()) for n in range(2)]
    assert module._accuracy(counts).tolist() == pytest.approx(expected)


def test_too_few_labels(whole, sae, monkeypatch):
    settings = ProbingSettings()
    assert probing(sae, whole, 0, make_passages(90), settings).why == "30 new passages of `ice`; 40 are needed."
    one = [Passage(p.context, "ice") for p in make_passages(90)]
    assert probing(sae, whole, 0, one, settings).status == "no_topics"
    monkeypatch.setattr(probes, "find_spec", lambda name: None)
    assert "pip install 'sleave[evaluation]'" in probing(sae, whole, 0, one, settings).why
