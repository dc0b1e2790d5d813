"""Suspects of splitting and absorption, planted, and projections against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sleave.activations.rows import Rows
from sleave.auditing.audit import audit_rows
from sleave.auditing.rows import read_codes
from sleave.auditing.suspects import projections
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.dependence.mutual_information import mutual_information
from sleave.evaluation.evidence import Evidence

ROWS = 4000


def autoencoder(encoder, decoder, bias=-0.5):
    """Features with these encoders and decoders, given as rows; inputs are centred by b_dec, far from 0."""
    sae = ReLUAutoencoder(len(encoder[0]), len(decoder), True)
    sae.W_enc.data, sae.W_dec.data = torch.tensor(encoder).float().t(), torch.tensor(decoder).float()
    sae.b_enc.data += bias
    sae.b_dec.data += 20
    return sae.requires_grad_(False)


def letters(with_letter: bool):
    """A general thing (dimension 0) on a fifth of the rows; a special one (dimension 1) on a twentieth.

    Args:
        with_letter: whether the general thing is there wherever the special one is.
    """
    g = torch.Generator().manual_seed(0)
    general, special = (torch.rand(ROWS, generator=g) < share for share in (0.2, 0.05))
    general = general | special if with_letter else general & ~special
    x = torch.stack([general * 2.0, special * 3.0, torch.zeros(ROWS)], dim=1)
    return x + 20 + 0.01 * torch.randn(ROWS, 3, generator=g)


# The parent reads the general thing where the special one is not; the child's direction holds some of the parent's.
PARENT_AND_CHILD = ([[1, -5, 0], [0, 1, 0]], [[1, 0, 0], [0.5, 0.85, 0]])


def test_an_absorbed_feature():
    audit = audit_rows(autoencoder(*PARENT_AND_CHILD), letters(with_letter=True))
    (suspect,) = audit.absorptions
    assert (suspect.parent, suspect.child, suspect.pair.together) == (0, 1, 0)
    assert suspect.deviations > 3
    assert suspect.ratio == pytest.approx(1, abs=0.01)
    assert audit.summary.absorptions == audit.summary.absorption_candidates == audit.summary.absorptions_checked == 1
    assert audit.splits == ()  # not alike enough


def test_no_absorption_where_the_direction_is_not_there():
    """The same codes, but what the parent stands for is really absent where the child fires."""
    audit = audit_rows(autoencoder(*PARENT_AND_CHILD), letters(with_letter=False))
    assert (audit.summary.absorption_candidates, audit.absorptions) == (1, ())


def test_no_absorption_where_the_parent_has_little_to_do_with_its_direction():
    """Its firing and its direction are of different dimensions: its own projection is no standard."""
    encoder, decoder = [[0, -5, 1], [0, 1, 0]], [[1, 0, 0], [0.5, 0.85, 0]]
    x = letters(with_letter=True)
    x[:, 2] += 2.0 * (torch.rand(ROWS, generator=torch.Generator().manual_seed(1)) < 0.2)
    audit = audit_rows(autoencoder(encoder, decoder), x)
    assert (audit.summary.absorption_candidates, audit.absorptions) == (1, ())


def test_a_split_feature():
    """Two of like directions that exclude each other; a third one fires with both, and is none."""
    encoder = [[1, -5, 0], [0, 1, 0], [1, 1, 0]]
    decoder = [[1, 0.6, 0], [0.6, 1, 0], [1, 1, 0]]
    audit = audit_rows(autoencoder(encoder, decoder), letters(with_letter=True))
    (suspect,) = audit.splits
    assert (suspect.pair.i, suspect.pair.j, audit.summary.splits) == (0, 1, 1)
    assert suspect.pair.together == 0
    assert suspect.deviations == pytest.approx(suspect.pair.expected**0.5, rel=0.2)


def test_a_feature_that_hardly_fires_is_no_suspect():
    x = torch.full((ROWS, 3), 20.0)
    x[:9, 1] += 3
    x[9:900, 0] += 2
    audit = audit_rows(autoencoder(*PARENT_AND_CHILD), x)
    assert (audit.summary.splits, audit.summary.absorption_candidates) == (0, 0)


def test_projections():
    g = torch.Generator().manual_seed(3)
    x = torch.randn(500, 5, generator=g) + 20
    encoder, decoder = torch.randn(2, 8, 5, generator=g).tolist()
    sae = autoencoder(encoder, decoder)
    rows = Rows(500, 5, lambda size: iter(x.split(130)))
    codes, _, deviation = read_codes(sae, rows)
    evidence = Evidence(sae, codes, mutual_information(codes), deviation)
    parent, child = torch.tensor([0, 0, 3, 7]), torch.tensor([1, 2, 1, 6])
    own, alone, spread = projections(evidence, rows, parent, child)
    W = sae.W_dec.double().numpy()
    fires = sae.encode(x).numpy() > 0
    for n, (p, c) in enumerate(zip(parent.tolist(), child.tolist(), strict=True)):
        projection = (x.double().numpy() - 20) @ (W[p] / np.linalg.norm(W[p]))
        assert float(own[n]) == pytest.approx(projection[fires[:, p]].mean() - projection.mean(), abs=1e-4)
        assert float(alone[n]) == pytest.approx(
            projection[fires[:, c] & ~fires[:, p]].mean() - projection.mean(), abs=1e-4
        )
        assert float(spread[n]) == pytest.approx(projection.std(), rel=1e-4)
