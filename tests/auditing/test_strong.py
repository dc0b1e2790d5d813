"""The pairs that share most, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted import activations, trained

from sleave.activations.rows import Rows
from sleave.auditing.rows import read_codes
from sleave.auditing.strong import strong_pairs
from sleave.dependence.mutual_information import mutual_information
from sleave.evaluation.evidence import Evidence

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def evidence():
    sae = trained("relu", steps=40)
    codes, _, deviation = read_codes(sae, Rows.of(activations(1500)))
    return Evidence(sae, codes, mutual_information(codes), deviation)


@pytest.fixture(scope="module")
def brute(evidence):
    """For all i < j: |r|, information, and whether the two fire together on 10 rows."""
    acts = evidence.codes.to_dense().double()
    with np.errstate(invalid="ignore"):
        r = np.nan_to_num(np.abs(np.corrcoef(acts.numpy().T)))
    fires = (acts > 0).double()
    upper = np.triu_indices(acts.shape[1], 1)
    together = (fires.t() @ fires).numpy()[upper]
    return np.stack(upper, 1), r[upper], evidence.scores.to_dense().numpy()[upper], together


def test_they_are_the_strongest_by_either_measure(evidence, brute):
    strong, _ = strong_pairs(evidence, listed=60)
    pairs, r, information, together = brute
    often = together >= 10
    r, information = np.where(often, r, -1), np.where(often, information, -1)
    chosen = np.union1d(np.argsort(-r)[:60], np.argsort(-information)[:60])
    assert set(zip(strong.i, strong.j, strict=True)) == {tuple(pairs[n]) for n in chosen}
    place = {tuple(pair): n for n, pair in enumerate(pairs)}
    order = [place[pair] for pair in zip(strong.i, strong.j, strict=True)]
    np.testing.assert_allclose(strong.pearson, r[order], atol=5.1e-4)
    np.testing.assert_allclose(strong.information, information[order], atol=5.1e-6)
    assert strong.least_pearson == pytest.approx(np.sort(r)[-60], abs=5.1e-4)
    assert strong.least_information == pytest.approx(np.sort(information)[-60], abs=5.1e-6)


def test_when_all_are_listed_nothing_is_below(evidence, brute):
    strong, correlation = strong_pairs(evidence)
    _, r, _, together = brute
    assert len(strong.i) == int((together >= 10).sum())
    assert (strong.least_pearson, strong.least_information) == (0, 0)
    assert correlation.sort().values.numpy() == pytest.approx(np.sort(r[together > 0]), abs=1e-9)


def test_features_that_never_fire_together_share_nothing(evidence):
    silent = evidence.codes.where(torch.zeros(evidence.codes.value.numel(), dtype=torch.bool))
    nothing = Evidence(trained("relu", steps=0), silent, mutual_information(silent), torch.ones(32).double())
    strong, correlation = strong_pairs(nothing)
    assert (strong.i, strong.pearson, len(correlation)) == ((), (), 0)
