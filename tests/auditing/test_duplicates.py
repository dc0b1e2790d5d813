"""Near-duplicates and clusters where it is known which there are."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sleave.auditing.audit import audit_rows
from sleave.auditing.duplicates import components
from sleave.autoencoder.relu import ReLUAutoencoder


def rows_of(directions):
    return torch.from_numpy(np.array(directions)).float()


def audited(encoder, decoder, x, bias=-0.5, **settings):
    """Features with these encoders and decoders, given as rows."""
    sae = ReLUAutoencoder(x.shape[1], len(decoder))
    sae.W_enc.data, sae.W_dec.data = rows_of(encoder).t(), rows_of(decoder)
    sae.b_enc.data += bias
    return audit_rows(sae.requires_grad_(False), x, **settings)


def events(rows=2000, seed=0):
    """Four independent things that happen on a tenth of the rows each; the second always with the first."""
    g = torch.Generator().manual_seed(seed)
    x = (torch.rand(rows, 4, generator=g) < 0.1) * (1 + torch.rand(rows, 4, generator=g))
    x[:, 1] = x[:, 0] * (0.9 + 0.2 * torch.rand(rows, generator=g))
    return x


def test_codes_alone_show_it():
    """Encoders that read different dimensions, which always go together."""
    (found,) = audited([[1, 0, 0, 0], [0, 1, 0, 0]], [[1, 0, 0, 0], [0.9, 0.3, 0, 0]], events()).near_duplicates
    assert (found.by_codes, found.by_encoders) == (True, False)
    assert found.pair.encoder == 0


def test_independent_codes_do_not():
    audit = audited([[1, 0, 0, 0], [0, 0, 1, 0]], [[1, 0, 0, 0], [0.9, 0, 0.3, 0]], events())
    assert audit.near_duplicates == ()
    assert audit.rankings["decoder"][0].decoder > 0.9
    assert audit.rankings["decoder"][0].together >= 10


def test_encoders_alone_show_it_where_nothing_fires():
    both = [[1, 0, 0, 0], [5, 1, 0, 0]]
    (found,) = audited(both, both, events(), bias=-100).near_duplicates
    assert (found.by_codes, found.by_encoders) == (False, True)
    assert found.pair.fired_i == found.pair.fired_j == 0


def test_few_rows_together_show_nothing():
    x = torch.zeros(2000, 4)
    x[:9, :2] = torch.rand(9, 1) + 1
    audit = audited([[1, 0, 0, 0], [0, 1, 0, 0]], [[1, 0, 0, 0]] * 2, x)
    assert audit.near_duplicates == ()
    x[:10, :2] = torch.rand(10, 1) + 1
    assert len(audited([[1, 0, 0, 0], [0, 1, 0, 0]], [[1, 0, 0, 0]] * 2, x).near_duplicates) == 1


def test_an_opposite_direction_is_no_duplicate():
    audit = audited([[1, 0, 0, 0]] * 2, [[1, 0, 0, 0], [-1, 0, 0, 0]], events())
    assert audit.near_duplicates == ()
    assert audit.rankings["correlation"][0].pearson > 0.99


def test_clusters_and_totals_count_what_is_not_listed():
    e = np.eye(4)
    angle = np.array([1, 0.35, 0, 0])  # alike to both e0 and what is turned further, which are not alike
    further = np.array([1, 0.9, 0, 0])
    directions = [e[0], angle, further, e[2], 2 * e[2], e[3]]
    audit = audited(directions, directions, events(), pairs=1)
    assert audit.summary.near_duplicates == 3
    assert len(audit.near_duplicates) == len(audit.clusters) == 1
    assert (audit.summary.clusters, audit.summary.clustered) == (2, 5)
    assert audit.clusters[0].members == (0, 1, 2)
    assert audit.clusters[0].pairs == 2
    cosines = [e[0] @ angle / np.linalg.norm(angle), angle @ further / np.linalg.norm(angle) / np.linalg.norm(further)]
    assert abs(audit.clusters[0].mean_cosine - np.mean(cosines)) < 1e-6
    every = audited(directions, directions, events())
    assert [c.members for c in every.clusters] == [(0, 1, 2), (3, 4)]


@given(st.integers(1, 30), st.data())
def test_components(count, data):
    number = st.integers(0, count - 1)
    edges = data.draw(st.lists(st.tuples(number, number), max_size=40))
    i, j = torch.tensor(edges, dtype=torch.int64).reshape(-1, 2).unbind(1)
    mine = components(count, i, j)
    graph = coo_matrix((np.ones(len(edges)), (i.numpy(), j.numpy())), shape=(count, count))
    theirs = torch.tensor(connected_components(graph, directed=False)[1])
    assert torch.equal(mine[:, None] == mine, theirs[:, None] == theirs)
    assert all(int(mine[k]) == min((mine == mine[k]).nonzero().flatten().tolist()) for k in range(count))


def test_features_that_exclude_each_other_say_different_things_whatever_their_encoders():
    """One feature split by context: like encoders and decoders, and never on the same row."""
    x = torch.zeros(2000, 4)
    x[::10, 0], x[5::10, 0] = 1.0, 1.0
    x[::10, 1], x[5::10, 1] = 2.5, -2.5
    both = [[1, 0.3, 0, 0], [1, -0.3, 0, 0]]
    audit = audited(both, both, x)
    assert audit.near_duplicates == ()
    assert [(s.pair.i, s.pair.j, s.pair.together) for s in audit.splits] == [(0, 1, 0)]
    assert audit.splits[0].pair.decoder > 0.8
