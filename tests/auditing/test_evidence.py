"""Figures of pairs, rankings and the summary against brute force with numpy, scipy and scikit-learn."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import activations, trained
from scipy.stats import hypergeom
from sklearn.metrics import mutual_info_score, r2_score

from sleave.activations.rows import Rows
from sleave.auditing.audit import audit_rows
from sleave.auditing.figures import pair_figures
from sleave.auditing.rows import read_codes
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.base.errors import SleaveError
from sleave.dependence.mutual_information import mutual_information
from sleave.evaluation import directions, evidence
from sleave.evaluation.evidence import Evidence
from sleave.evaluation.histogram import histogram
from sleave.evaluation.information import normalized_information
from sleave.evaluation.limits import OFTEN

pytestmark = pytest.mark.usefixtures("one_thread")


def small(d_sae=14, d_in=6, seed=0):
    """Random directions; feature 1 never fires, feature 2 hardly ever, feature 3 always."""
    g = torch.Generator().manual_seed(seed)
    sae = ReLUAutoencoder(d_in, d_sae)
    sae.W_enc.data = torch.randn(d_sae, d_in, generator=g).t()
    sae.W_dec.data = sae.W_enc.t() + torch.randn(d_sae, d_in, generator=g) * torch.rand(d_sae, 1, generator=g)
    sae.W_dec.data[5] = sae.W_dec[4] * -2
    sae.b_enc.data = -torch.rand(d_sae, generator=g) - 0.5
    sae.b_enc.data[1:4] = torch.tensor([-1e3, -6.5, 1e3])
    return sae.requires_grad_(False), torch.randn(900, d_in, generator=g)


@pytest.fixture(scope="module")
def case():
    sae, x = small()
    return sae, x, sae.encode(x).double().numpy(), audit_rows(sae, x, pairs=91)


def brute(sae, acts, i, j):
    """The same figures, from their definitions."""
    fires = acts > 0
    a, b, n = fires[:, i], fires[:, j], len(acts)
    f, g = acts[:, i], acts[:, j]
    W, V = sae.W_dec.double().numpy(), sae.W_enc.t().double().numpy()
    spread = small()[1].double().numpy().std(0)

    def cosine(u, v):
        return u @ v / (np.linalg.norm(u) * np.linalg.norm(v)) if u.any() and v.any() else 0.0

    def share(part, whole):
        return part / whole if whole else 0.0

    entropy = min(mutual_info_score(a, a), mutual_info_score(b, b))
    return {
        "i": i,
        "j": j,
        "information": float(mutual_information(torch.tensor(acts)).to_dense()[i, j]),
        "normalized": mutual_info_score(a, b) / entropy if entropy > 1e-12 else 0.0,
        "pearson": cosine(f - f.mean(), g - g.mean()),
        "cosine": cosine(f, g),
        "decoder": cosine(W[i], W[j]),
        "standardised": cosine(W[i] / spread, W[j] / spread),
        "encoder": cosine(V[i], V[j]),
        "fired_i": a.sum(),
        "fired_j": b.sum(),
        "together": (a & b).sum(),
        "expected": a.mean() * b.mean() * n,
        "rate_i": a.mean(),
        "rate_j": b.mean(),
        "i_given_j": share((a & b).sum(), b.sum()),
        "j_given_i": share((a & b).sum(), a.sum()),
        "jaccard": share((a & b).sum(), (a | b).sum()),
    }


def test_figures_are_what_they_say(case):
    sae, _, acts, audit = case
    figures = audit.rankings["decoder"]
    assert len(figures) == 91  # every pair, those of the dead and of the constant feature included
    for figure in figures:
        expected = brute(sae, acts, figure.i, figure.j)
        assert asdict(figure) == pytest.approx(expected, rel=1e-5, abs=2e-6), (figure.i, figure.j)
    assert (acts[:, 1] > 0).sum() == 0
    assert 0 < (acts[:, 2] > 0).sum() < OFTEN
    assert (acts[:, 3] > 0).all()


def test_figures_do_not_depend_on_how_many_are_looked_up_at_once(case, monkeypatch):
    sae, x, _, audit = case
    monkeypatch.setattr(evidence, "ENTRIES", 50)
    assert audit_rows(sae, x, pairs=91).rankings == audit.rankings


def test_rankings(case):
    sae, x, acts, audit = case
    every = {(i, j): brute(sae, acts, i, j) for i, j in combinations(range(sae.d_sae), 2)}
    often = [pair for pair, f in every.items() if f["together"] >= OFTEN]
    assert len(often) < 91
    for name, key, among in (
        ("information", lambda f: f["information"], often),
        ("correlation", lambda f: abs(f["pearson"]), often),
        ("decoder", lambda f: abs(f["decoder"]), list(every)),
    ):
        best = sorted(among, key=lambda pair, key=key: -key(every[pair]))
        assert [(p.i, p.j) for p in audit.rankings[name][:20]] == best[:20], name
        assert [(p.i, p.j) for p in audit_rows(sae, x, pairs=3).rankings[name]] == best[:3], name
    assert min(p.decoder for p in audit.rankings["decoder"]) == pytest.approx(-1)  # signs are kept


def test_summary(case):
    sae, x, acts, audit = case
    rate = (acts > 0).mean(0)
    s = audit.summary
    assert (s.rows, s.d_in, s.d_sae) == (900, 6, 14)
    assert s.l0 == pytest.approx(rate.sum())
    assert s.fvu == pytest.approx(1 - r2_score(x, sae(x), multioutput="variance_weighted"), rel=1e-4)
    assert audit.dead == tuple((rate == 0).nonzero()[0])
    assert audit.dense == tuple((rate > 0.1).nonzero()[0])
    assert (s.dead, s.dense) == (len(audit.dead), len(audit.dense))
    scores = mutual_information(torch.tensor(acts))
    assert (s.mean_information, s.p999_information) == pytest.approx((scores.mean(), scores.quantile(0.999)))
    nearest = [max(brute(sae, acts, *sorted((i, j)))["decoder"] for j in range(14) if j != i) for i in range(14)]
    counts, _ = np.histogram(nearest, audit.histograms["nearest"].edges)
    assert audit.histograms["nearest"].counts == tuple(counts)
    assert sum(audit.histograms["firing_rate"].counts) == 14 - s.dead


def test_the_result_is_json(case):
    audit = case[-1]
    again = json.loads(json.dumps(audit.to_dict(), allow_nan=False))
    assert again["summary"] == asdict(audit.summary)
    assert again["rankings"]["information"][0] == asdict(audit.rankings["information"][0])
    assert again["limits"]["near_duplicate_decoder_cosine"] == 0.8


def test_a_pair_that_never_fires_together():
    x = torch.eye(4).repeat(30, 1)
    sae = ReLUAutoencoder(4, 4)
    sae.W_enc.data, sae.W_dec.data = torch.eye(4), torch.eye(4)
    codes, fvu, deviation = read_codes(sae.requires_grad_(False), Rows.of(x))
    assert fvu == 0
    known = Evidence(sae, codes, mutual_information(codes), deviation)
    i, j = torch.tensor([0]), torch.tensor([1])
    (figure,) = pair_figures(known, i, j)
    assert (figure.together, figure.cosine, figure.expected) == (0, 0.0, 30 * 30 / 120)
    assert figure.information == pytest.approx(float(mutual_information(sae.encode(x)).to_dense()[0, 1]))
    law = hypergeom(120, 30, 30)
    assert float(known.deviations(i, j)) == pytest.approx(law.mean() / law.std())


@given(st.integers(2, 60), st.data())
def test_normalized_information(rows, data):
    a = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    b = np.array(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
    counts = (torch.tensor([int(c.sum())]) for c in (a, b, a & b))
    value = float(normalized_information(rows, *counts))
    entropy = min(mutual_info_score(a, a), mutual_info_score(b, b))
    assert value == pytest.approx(mutual_info_score(a, b) / entropy if entropy > 1e-12 else 0, abs=1e-9)
    assert 0 <= value <= 1


@settings(deadline=None)
@given(st.integers(2, 9), st.integers(1, 5))
def test_tiles_have_every_pair_once(d_sae, tile):
    before, directions.TILE = directions.TILE, tile
    try:
        unit = torch.nn.functional.normalize(
            torch.randn(d_sae, 3, generator=torch.Generator().manual_seed(d_sae)), dim=1
        )
        dense = torch.full((d_sae, d_sae), -torch.inf)
        nearest = directions.Nearest(d_sae)
        every = list(directions.tiles(unit))
        for row, column, part in every:
            dense[row : row + tile, column : column + tile] = part
            nearest.add(row, column, part)
        assert len(every) == directions.num_tiles(d_sae)
        both = (unit @ unit.t()).fill_diagonal_(-torch.inf)
        assert torch.allclose(dense, both.masked_fill(torch.ones_like(both).tril() > 0, -torch.inf), atol=1e-6)
        assert torch.allclose(nearest.cosine, both.amax(1), atol=1e-6)
    finally:
        directions.TILE = before


def test_histogram():
    values = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.2, 0.49, 1.0, 3.0])
    h = histogram(values, -1, 1, 4)
    assert (h.edges, h.counts, h.below) == ((-1, -0.5, 0, 0.5, 1), (1, 1, 3, 2), 1)


def test_mistakes():
    sae, x = small()
    with pytest.raises(SleaveError, match=r"width 5, but the autoencoder reads width 6\. Give the model"):
        audit_rows(sae, x[:, :5])
    with pytest.raises(SleaveError, match="2 rows, 2 features and 1 pair at least; given were 1 rows"):
        audit_rows(sae, x[:1])
    with pytest.raises(SleaveError, match="pairs = 0"):
        audit_rows(sae, x, pairs=0)
    x[7, 3] = float("inf")
    with pytest.raises(SleaveError, match="NaN or infinite values; harvest them again"):
        audit_rows(sae, x)


def test_of_what_fires_alone_and_of_all_codes_the_same():
    """Codes in either form: TopK gives what fires, ReLU all."""
    sae, x = trained("topk"), activations(600)
    codes, *_ = read_codes(sae, Rows.of(x))
    assert torch.equal(codes.to_dense(), sae.encode(x))
