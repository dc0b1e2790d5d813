"""A small world is what it says, recovery is SAELens's, and the constraint is compared with its absence."""

import json
import sys
from types import ModuleType

import peers  # noqa: F401  (before SAELens, so that it imports without warnings)
import pytest
import torch
from sae_lens.synthetic import compute_classification_metrics, feature_uniqueness, mean_correlation_coefficient
from scipy import stats

from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.base.settings import parse
from sleave.ground_truth import toy
from sleave.ground_truth.recovery import cosines, firing_f1, matching, uniqueness
from sleave.ground_truth.settings import GroundTruthSettings
from sleave.ground_truth.toy import ground_truth, recovery, toy_settings
from sleave.ground_truth.world import D_IN, DUPLICATES, FEATURES, World, make_world
from sleave.training.settings import RunSettings

pytestmark = pytest.mark.usefixtures("one_thread")
SHORT = GroundTruthSettings(seeds=2, steps=40)


@pytest.fixture(scope="module")
def world():
    return make_world(0, 20_000)


def run_settings(kind="relu", **sections):
    values = {"autoencoder": {"kind": kind, "d_sae": 2560}, "training": {"steps": 400}}
    return parse(RunSettings, values | sections, where="the test")


def test_rows_are_sums_of_known_directions(world):
    assert world.directions.shape == (FEATURES, D_IN)
    torch.testing.assert_close(world.directions.norm(dim=1), torch.ones(FEATURES))
    rest = world.x - world.acts @ world.directions
    torch.testing.assert_close(rest, rest[:1].expand_as(rest), rtol=0, atol=1e-5)  # the bias


def test_features_are_correlated_hierarchical_and_duplicated(world):
    fired = (world.acts > 0).double()
    rate = fired.mean(0)
    assert float(rate.min()) > 0.001
    together = fired.t() @ fired / len(fired)
    implied = (together / rate[:, None])[:FEATURES, :FEATURES]  # P(column | row)
    implied.fill_diagonal_(0)
    assert int((implied == 1).any(dim=1).sum()) == 4 * 3 + 4 * 9  # each child's parent, without which it is silent
    pearson = torch.corrcoef(fired.t()).fill_diagonal_(0)
    alone = ~(implied == 1).any(dim=1) & ~(implied == 1).any(dim=0)
    assert float(pearson[alone][:, alone].max()) > 0.15
    cosine = (world.directions @ world.directions.t()).fill_diagonal_(0)
    torch.testing.assert_close(cosine[-DUPLICATES:, -2 * DUPLICATES : -DUPLICATES].diagonal(), torch.full((8,), 0.9))


def test_a_seed_is_a_world_and_leaves_torchs_own_seed_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = make_world(1, 50), make_world(1, 50), make_world(2, 50)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.x, again.x)
    assert not torch.equal(first.directions, other.directions)


def test_recovery_is_sae_lens_s():
    g = torch.Generator().manual_seed(0)
    W_dec, directions = torch.randn(20, 8, generator=g), torch.randn(14, 8, generator=g)
    cosine = cosines(W_dec, directions)
    learned, true = matching(cosine)
    assert len(learned) == 14
    assert float(cosine[learned, true].mean()) == pytest.approx(mean_correlation_coefficient(W_dec, directions))
    assert uniqueness(cosine) == pytest.approx(feature_uniqueness(W_dec, directions))
    fired, truth = (torch.rand(300, 8, generator=g) < 0.3 for _ in range(2))
    expected = compute_classification_metrics(fired.float(), truth.float(), torch.eye(8), torch.eye(8)).f1_score
    assert float(firing_f1(fired, truth).mean()) == pytest.approx(expected)


def test_the_truth_itself_is_found_whole():
    """Orthogonal features, an autoencoder that has their directions in another order and of another sign and length."""
    g = torch.Generator().manual_seed(0)
    acts = torch.rand(500, 6, generator=g) * (torch.rand(500, 6, generator=g) < 0.3)
    order = torch.randperm(6, generator=g)
    sae = ReLUAutoencoder(6, 6)
    with torch.no_grad():
        sae.W_dec.copy_(2 * torch.eye(6)[order])
        sae.W_enc.copy_(torch.eye(6)[order].t() / 2)
    found = recovery(sae, World(torch.eye(6), acts, acts))
    assert (found.mcc, found.uniqueness, found.f1, found.dead) == (1, 1, 1, 0)
    assert found.fvu == pytest.approx(0, abs=1e-10)
    assert found.l0 == pytest.approx(float((acts > 0).sum(1).float().mean()))


def test_settings_are_fitted_to_the_toy():
    run = run_settings(
        "topk",
        constraint={"kind": "selective", "top": 0.001, "weight": 0.7, "warmup_steps": 100},
        optimizer={"lr": 1e-4, "warmup_steps": 40},
    )
    fitted = toy_settings(run, seed=3, steps=200, true_l0=5)
    assert (fitted.autoencoder.kind, fitted.autoencoder.d_sae, fitted.autoencoder.k) == ("topk", FEATURES, 5)
    assert (fitted.constraint.weight, fitted.constraint.warmup_steps) == (0.7, 50)
    assert fitted.constraint.top == pytest.approx(0.001 * 2559 / 127)
    assert (fitted.optimizer.warmup_steps, fitted.optimizer.lr, fitted.seed) == (20, toy.LR, 3)
    wide = toy_settings(run_settings(constraint={"kind": "mi", "top": 0.3}), 0, 10, 5)
    assert wide.constraint.top == 0.3


def test_intervals_are_students(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)  # which not everyone has who has SAELens's worlds
    found, intervals = toy._over_seeds([{"mcc": x} for x in (0.5, 0.6, 0.9)])
    expected = stats.t.interval(0.95, 2, loc=found["mcc"], scale=stats.sem([0.5, 0.6, 0.9]))
    assert intervals["mcc"] == pytest.approx(expected)


def test_a_constraint_stands_beside_its_absence(monkeypatch):
    monkeypatch.setattr(toy, "ROWS", 4096)
    monkeypatch.setattr(toy, "HELDOUT", 1024)
    with_one = ground_truth(run_settings(constraint={"kind": "full", "weight": 5.0}), SHORT)
    without = ground_truth(run_settings(constraint={"kind": "none"}), SHORT)
    assert (with_one.status, without.status) == ("ok", "ok")
    assert with_one.baseline == {name: getattr(without, name) for name in with_one.baseline}
    assert (without.baseline, without.gain, without.gain_intervals) == (None, None, {})
    assert with_one.gain == pytest.approx({n: getattr(with_one, n) - v for n, v in with_one.baseline.items()})
    assert with_one.gain["fvu"] != 0
    json.dumps(with_one.to_dict(), allow_nan=False)


@pytest.mark.parametrize("kind", ["jumprelu", "gated", "topk", "batch_topk", "matryoshka"])
def test_every_architecture(kind, monkeypatch):
    monkeypatch.setattr(toy, "ROWS", 4096)
    monkeypatch.setattr(toy, "HELDOUT", 512)
    found = ground_truth(run_settings(kind, constraint={"kind": "none"}), SHORT)
    assert 0.2 < found.mcc < 1


@pytest.mark.slow
def test_known_features_are_found(world):
    """Most of them, in a short training of BatchTopK."""
    settings = toy_settings(run_settings("batch_topk", constraint={"kind": "none"}), 0, 800, 3)
    sae = toy.train(settings, world.x, lambda *_: None)
    found = recovery(sae, world)
    assert found.mcc > 0.8
    assert found.fvu < 0.1


@pytest.mark.parametrize("there", [None, ModuleType("sae_lens.synthetic")])
def test_without_sae_lens_or_with_an_old_one(there, monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_lens.synthetic", there)
    found = ground_truth(run_settings(), SHORT)
    assert found.status == "not_installed"
    assert "pip install 'sleave[synthetic]'" in found.why
