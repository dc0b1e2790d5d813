"""Copies planted into trained autoencoders are all found; in a random orthogonal dictionary nothing is."""

from __future__ import annotations

import pytest
import torch
from planted import ARCHITECTURES, D_IN, D_SAE, activations, trained, with_copies

from sleave.auditing.audit import audit_rows
from sleave.autoencoder.folding import fold
from sleave.autoencoder.relu import ReLUAutoencoder

pytestmark = pytest.mark.usefixtures("one_thread")
COPIES = 50


@pytest.fixture(scope="module", params=list(ARCHITECTURES))
def sae(request):
    return trained(request.param)


def found(audit):
    return {(f.pair.i, f.pair.j) for f in audit.near_duplicates}


def planted(of):
    return {(int(feature), D_SAE + n) for n, feature in enumerate(of)}


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_every_copy_is_found_and_in_a_cluster_with_its_original(sae, scale):
    x = activations()
    order = torch.randperm(D_SAE, generator=torch.Generator().manual_seed(5))
    exact, turned = order[:COPIES], order[-COPIES:]
    larger = with_copies(sae, exact, scale=scale)
    of = torch.cat([exact, turned])
    larger = with_copies(larger, turned, cosine=0.9, scale=scale)
    before, audit = audit_rows(sae, x, pairs=500), audit_rows(larger, x, pairs=500)
    assert planted(of) <= found(audit)
    assert audit.summary.near_duplicates == len(audit.near_duplicates)
    for i, j in planted(of):
        assert any(i in c.members and j in c.members for c in audit.clusters)
    # what was not planted is not made up: pairs of features that are there in both, as before
    if sae.architecture != "topk":  # there, copies take the places of others
        assert {p for p in found(audit) if max(p) < D_SAE} == found(before)


def test_codes_show_exact_copies_also_where_copies_compete(sae):
    """So encoders are not needed for features that fire often enough, in TopK either."""
    x = activations()
    fired = (sae.encode(x) != 0).sum(0)
    of = (fired >= 40).nonzero().flatten()[:COPIES]
    assert len(of) >= 30
    shown = {(f.pair.i, f.pair.j): f.by_codes for f in audit_rows(with_copies(sae, of), x, pairs=500).near_duplicates}
    assert all(shown[pair] for pair in planted(of))


@pytest.mark.parametrize("width", [1.0, 100.0])
def test_a_random_orthogonal_dictionary_has_none(width):
    """Also one that is orthogonal in the units of a standardised training, where one dimension is wide."""
    g = torch.Generator().manual_seed(1)
    scale = torch.ones(D_IN)
    scale[0] = 1 / width
    x = activations()
    sae = ReLUAutoencoder(D_IN, D_IN, True)
    with torch.no_grad():
        sae.W_dec.copy_(torch.linalg.qr(torch.randn(D_IN, D_IN, generator=g)).Q)
        sae.W_enc.copy_(sae.W_dec.t())
        sae.b_dec.copy_(x.mean(0))
        sae.b_enc.fill_(-0.5)
    if width > 1:
        sae, x = fold(sae, torch.zeros(D_IN), scale), x / scale
    audit = audit_rows(sae.requires_grad_(False), x)
    s = audit.summary
    assert (s.near_duplicates, s.clusters, s.splits, s.absorptions, s.absorption_candidates) == (0, 0, 0, 0, 0)
    assert (audit.near_duplicates, audit.clusters, audit.splits, audit.absorptions) == ((), (), (), ())
    assert s.l0 > 5
    assert all(len(ranking) == 50 for ranking in audit.rankings.values())
