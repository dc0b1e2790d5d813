from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sleave.activations.scaling import Scaling
from sleave.auditing.audit import audit_rows
from sleave.autoencoder.folding import fold
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.base.errors import SleaveError
from sleave.evaluation import correlation
from sleave.evaluation.evaluate import evaluate_rows

D_IN, D_SAE = 6, 14


def trained():
    """An autoencoder of scaled rows, with unit decoder rows, that reconstructs a little of them."""
    g = torch.Generator().manual_seed(3)
    sae = ReLUAutoencoder(D_IN, D_SAE)
    sae.W_dec.data = torch.nn.functional.normalize(torch.randn(D_SAE, D_IN, generator=g), dim=1)
    sae.W_enc.data = 0.6 * sae.W_dec.data.T
    sae.b_enc.data = torch.full((D_SAE,), -0.3)
    sae.b_enc.data[4] = -100  # dead
    sae.b_dec.data = 0.1 * torch.randn(D_IN, generator=g)
    return sae.requires_grad_(False)


def rows(n=700):
    g = torch.Generator().manual_seed(4)
    return 40 * torch.randn(D_IN, generator=g) + torch.randn(n, D_IN, generator=g) * torch.logspace(-1, 1, D_IN)


def flat(evaluation):
    """Every number, by its path."""
    return {
        f"{part}.{k}": v
        for part, values in asdict(evaluation).items()
        if part != "groups"
        for k, v in (values.items() if isinstance(values, dict) else [("", values)])
        if isinstance(v, int | float)
    }


def test_scaled_figures_are_those_of_training():
    sae, raw = trained(), rows()
    scaling = Scaling(raw.mean(0), 1 / raw.std(0))
    there = flat(evaluate_rows(fold(sae, scaling.shift, scaling.scale), raw.split(100), scaling))
    here = flat(evaluate_rows(sae, scaling.apply(raw).split(128)))
    assert there["codes.dead"] >= 1
    for name in here:
        if not name.startswith(("raw", "decoder")):  # which are in units of the activations
            assert there[name] == pytest.approx(here[name], rel=1e-4, abs=1e-6), name
    assert 0.05 < there["scaled.fvu"] < 0.9
    # and the raw ones are of what the model itself has
    x, x_hat = raw.double(), scaling.invert(sae(scaling.apply(raw))).double()
    mse = (x - x_hat).square().sum(1).mean().item()
    assert there["raw.mse"] == pytest.approx(mse, rel=1e-4)
    assert there["raw.fvu"] == pytest.approx(mse / x.var(0, correction=0).sum().item(), rel=1e-4)
    assert there["raw.fvu"] != pytest.approx(there["scaled.fvu"], rel=0.01)


def test_without_a_scaling_both_are_raw():
    result = evaluate_rows(trained(), [rows()])
    assert result.raw == result.scaled
    assert result.to_dict()["raw"]["fvu"] == result.raw.fvu


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(0, 90), max_size=5).map(sorted))
def test_any_split_gives_the_same(cuts):
    x = (rows(90) - rows().mean(0)) / 10
    documents = torch.arange(90) // 7
    whole, parts = (
        evaluate_rows(trained(), batches, documents=documents, groups=3)
        for batches in ([x], x.tensor_split(list(cuts)))
    )
    assert flat(parts) == pytest.approx(flat(whole), rel=1e-4, abs=1e-6)
    assert parts.fingerprint == whole.fingerprint
    assert parts.codes.density == whole.codes.density
    assert parts.groups.keys() == whole.groups.keys()
    for name, values in parts.groups.items():
        assert values == pytest.approx(whole.groups[name], rel=1e-4, abs=1e-6), name


def test_without_a_group_is_without_its_rows():
    x, documents = (rows() - rows().mean(0)) / 10, torch.arange(700) * 31 % 97
    whole = evaluate_rows(trained(), x.split(64), documents=documents, groups=4)
    assert {"scaled.fvu", "raw.cosine", "codes.l0", "information.p999", "top_pairs.stability"} <= whole.groups.keys()
    assert not any("peak" in name or "density" in name for name in whole.groups)
    for group in range(4):
        kept = documents % 4 != group
        alone = flat(evaluate_rows(trained(), [x[kept]], documents=documents[kept], groups=4))
        for name, values in whole.groups.items():
            if not name.startswith("correlation.excess"):  # whose chance is that of all rows
                assert values[group] == pytest.approx(alone[name], rel=1e-5, abs=1e-7), name


def test_intervals_need_two_groups_of_rows():
    x = (rows() - rows().mean(0)) / 10
    assert evaluate_rows(trained(), [x], groups=1).groups == {}
    assert evaluate_rows(trained(), [x], documents=torch.full((700,), 10), groups=4).groups == {}
    assert evaluate_rows(trained(), [x[:256]]).groups == {}  # 256 rows count as a document
    assert {len(v) for v in evaluate_rows(trained(), [x]).groups.values()} == {3}


def test_the_fingerprint_is_of_the_rows():
    x = (rows() - rows().mean(0)) / 10
    first = evaluate_rows(trained(), [x], groups=1).fingerprint
    assert first == evaluate_rows(trained(), [x], groups=1).fingerprint
    assert first != evaluate_rows(trained(), [x + 1e-6], groups=1).fingerprint


def test_decoder_figures_are_those_of_an_audit():
    sae, x = trained(), (rows() - rows().mean(0)) / 10
    sae.W_dec[3], sae.W_enc[:, 3] = sae.W_dec[2], sae.W_enc[:, 2]
    found, audited = evaluate_rows(sae, [x]).decoder, audit_rows(sae, x)
    assert found is not None
    unit = sae.W_dec.double().numpy()
    cosine = unit @ unit.T / np.outer(np.linalg.norm(unit, axis=1), np.linalg.norm(unit, axis=1))
    np.fill_diagonal(cosine, -np.inf)
    assert found.mean_nearest == pytest.approx(cosine.max(0).mean(), abs=1e-6)
    assert found.largest == pytest.approx(1, abs=1e-6)
    assert found.near_duplicates == audited.summary.near_duplicates >= 1


def test_order_of_features_does_not_matter():
    sae, x = trained(), (rows() - rows().mean(0)) / 10
    order = torch.randperm(D_SAE, generator=torch.Generator().manual_seed(0))
    permuted = ReLUAutoencoder(D_IN, D_SAE).requires_grad_(False)
    permuted.W_enc.copy_(sae.W_enc[:, order])
    permuted.b_enc.copy_(sae.b_enc[order])
    permuted.W_dec.copy_(sae.W_dec[order])
    permuted.b_dec.copy_(sae.b_dec)
    here, there = flat(evaluate_rows(permuted, [x])), flat(evaluate_rows(sae, [x]))
    assert len(here) > 40
    for name in here:
        if not name.startswith("correlation.excess"):  # other features are turned by other numbers of rows
            assert here[name] == pytest.approx(there[name], rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize(("max_rows", "asked"), [(1, 1), (49, 1), (50, 1), (51, 2), (120, 3), (700, 14), (9999, 14)])
def test_max_rows_cuts_within_a_batch_and_asks_for_no_more(max_rows, asked):
    x, given = rows(), []

    def batches():
        for part in x.split(50):
            given.append(len(part))
            yield part

    if max_rows == 1:
        with pytest.raises(SleaveError, match="1 held-out rows without any variance"):
            evaluate_rows(trained(), batches(), max_rows=1)
    else:
        result = evaluate_rows(trained(), batches(), max_rows=max_rows)
        whole = evaluate_rows(trained(), [x[:max_rows]])
        assert result.rows == min(max_rows, 700)
        assert flat(result) == pytest.approx(flat(whole), rel=1e-4, abs=1e-6)
    assert len(given) == asked


@pytest.mark.parametrize("batches", [[], [torch.empty(0, D_IN)]])
def test_no_rows(batches):
    with pytest.raises(SleaveError, match=r"no held-out rows\. Harvest with harvest\.heldout_fraction above 0"):
        evaluate_rows(trained(), batches)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite(bad):
    x = rows()
    x[600, 2] = bad
    with pytest.raises(SleaveError, match="NaN or infinite"):
        evaluate_rows(trained(), x.split(100))
    evaluate_rows(trained(), x.split(100), max_rows=600)  # only those that are used matter


def test_too_few_documents():
    with pytest.raises(SleaveError, match=r"`documents` has 150 numbers, and there are more rows; give one for each"):
        evaluate_rows(trained(), rows().split(100), documents=torch.arange(150))


def test_wrong_width():
    with pytest.raises(SleaveError, match="`x` has width 5, but this autoencoder reads width 6"):
        evaluate_rows(trained(), [torch.randn(20, 5)])


def test_wide_dictionaries_go_without_the_correlation_of_all_pairs(monkeypatch):
    monkeypatch.setattr(correlation, "WIDEST", D_SAE - 1)
    monkeypatch.setattr(correlation, "coactivations_are_few", lambda codes: False)
    result = evaluate_rows(trained(), rows().split(100))
    assert result.correlation is None
    assert result.to_dict()["correlation"] is None
    assert result.codes.l0 > 0
