"""Mutual information of all pairs, against scikit-learn's of the same symbols, pair by pair."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

import sleave
from sleave.base.errors import SleaveError
from sleave.codes.codes import Codes
from sleave.dependence import information
from sleave.dependence.atoms import Atoms, cut, phi, reference_bins
from sleave.dependence.information import information_scores
from sleave.dependence.scores import PairScores


@st.composite
def some_codes(draw: st.DrawFn) -> torch.Tensor:
    """Codes with ties, dead features, features that always fire, and all densities between."""
    rows, d_sae = draw(st.integers(2, 90)), draw(st.integers(2, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    density = torch.rand(d_sae, generator=generator) * draw(st.sampled_from([0.1, 0.5, 2.0]))
    fires = torch.rand(rows, d_sae, generator=generator) < density
    values = torch.randn(rows, d_sae, generator=generator)
    if draw(st.booleans()):
        values = values.abs().mul(2).ceil()  # many equal values
    return fires * values


def symbols(atoms: Atoms) -> np.ndarray:
    table = torch.zeros(atoms.codes.rows, atoms.codes.d_sae, dtype=torch.int64)
    table[atoms.codes.row, atoms.codes.feature] = atoms.bin.long() + 1
    return table.numpy()


def brute_force(labels: np.ndarray, baseline: str) -> np.ndarray:
    rows, d_sae = labels.shape
    result = np.zeros((d_sae, d_sae))
    for i in range(d_sae):
        for j in range(i + 1, d_sae):
            value = mutual_info_score(labels[:, i], labels[:, j])
            if baseline == "shift":
                value -= mutual_info_score(np.roll(labels[:, i], rows // 2), labels[:, j])
            if baseline == "permutation":
                table = contingency_matrix(labels[:, i], labels[:, j], sparse=True)
                value -= expected_mutual_information(table, rows)
            result[i, j] = result[j, i] = value
    return result


def test_bins_have_equal_counts_and_follow_the_values() -> None:
    values = torch.tensor([3.0, 0.0, -1.0, 7.0, 5.0, 0.0, 4.0, 6.0, 2.0]).repeat(2)[:, None].repeat(1, 2)
    values[:, 1] = 1 * (values[:, 1] != 0)
    atoms = cut(Codes.from_dense(values), 2)
    assert atoms.num_bins.tolist() == [2, 2]
    assert atoms.sizes.tolist() == [[7, 7], [7, 7]]  # 14 active values: sqrt(14) / 2 is 2
    ordered = atoms.bin[atoms.codes.feature == 0][atoms.codes.value[atoms.codes.feature == 0].argsort(stable=True)]
    assert ordered.tolist() == sorted(ordered.tolist())


def test_equal_values_are_not_ordered_alike_in_two_features() -> None:
    both = torch.ones(4000, 2)
    assert abs(sleave.mutual_information(both).to_dense()[0, 1].item()) < 0.01  # and ln 8 if they were


@settings(deadline=None, max_examples=60)
@given(some_codes(), st.integers(1, 5))
def test_bins_agree_with_the_reference(acts: torch.Tensor, bins: int) -> None:
    codes = Codes.from_dense(acts)
    atoms = cut(codes, bins)
    assert torch.equal(atoms.bin, reference_bins(codes, atoms.num_bins))
    for i in range(codes.d_sae):
        sizes = atoms.sizes[i][: int(atoms.num_bins[i])]
        assert int(sizes.max() - sizes.min()) <= 1


@settings(deadline=None, max_examples=60)
@given(some_codes(), st.integers(1, 5), st.sampled_from(["none", "shift", "permutation"]))
def test_every_pair_agrees_with_scikit_learn(acts: torch.Tensor, bins: int, baseline: str) -> None:
    atoms = cut(Codes.from_dense(acts), bins)
    expected = brute_force(symbols(atoms), baseline)
    found = information_scores(atoms, baseline).to_dense().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(some_codes(), st.integers(1, 6), st.integers(0, 40))
def test_every_path_counts_alike(acts: torch.Tensor, bins: int, shift: int) -> None:
    """And lists pairs in the same order, that of (i, j)."""
    atoms = cut(Codes.from_dense(acts), bins)
    table = phi(atoms.codes.rows)
    own = table[atoms.sizes].sum(1) + table[atoms.codes.rows - atoms.codes.fired]
    results = []
    for path in (information.reference_counts, information._by_coactivations, information._by_planes):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(information, "TILE", 4)
            results.append(list(path(atoms, shift % atoms.codes.rows, own)))
    if shift % atoms.codes.rows == 0:
        results.append(list(information.reference_walk(atoms, own)))
    for other in results[1:]:
        for mine, theirs in zip(results[0], other, strict=True):
            torch.testing.assert_close(mine, theirs)


@settings(deadline=None, max_examples=60)
@given(some_codes(), st.floats(0.001, 0.999), st.sampled_from(["none", "permutation"]))
def test_quantiles_mean_and_top_agree_with_the_dense_matrix(acts: torch.Tensor, q: float, baseline: str) -> None:
    scores = sleave.mutual_information(acts, baseline=baseline)
    i, j = torch.triu_indices(scores.d_sae, scores.d_sae, offset=1)
    every = scores.to_dense()[i, j]
    assert scores.quantile(q) == pytest.approx(np.quantile(every.numpy(), q), abs=1e-12)
    assert scores.quantiles(0.5, q, 0.01) == [scores.quantile(0.5), scores.quantile(q), scores.quantile(0.01)]
    assert scores.mean() == pytest.approx(every.mean().item(), abs=1e-12)
    assert scores.peak() == every.max().item()
    threshold = scores.quantile(q)
    top = scores.above(threshold)
    chosen = every > threshold
    assert set(zip(top.i.tolist(), top.j.tolist(), strict=True)) == set(
        zip(i[chosen].tolist(), j[chosen].tolist(), strict=True)
    )
    assert top.ranked()[2].tolist() == sorted(top.score.tolist(), reverse=True)
    together = ((acts != 0).double().t() @ (acts != 0).double())[i, j]
    often = scores.above(threshold, min_coactivations=2)
    chosen &= together >= 2
    assert list(zip(often.i.tolist(), often.j.tolist(), strict=True)) == list(
        zip(i[chosen].tolist(), j[chosen].tolist(), strict=True)
    )
    shrunk = scores.shrunk(5.0).to_dense()[i, j]
    torch.testing.assert_close(shrunk, every * together / (together + 5))


def test_quantile_at_a_tie_between_listed_and_unlisted_pairs() -> None:
    group = torch.zeros(4, dtype=torch.int64)
    one = torch.tensor([0.5])
    scores = PairScores(4, torch.tensor([0]), torch.tensor([1]), one, torch.tensor([3]), group, one.view(1, 1))
    assert scores.quantile(0.3) == scores.quantile(0.9) == scores.mean() == 0.5
    assert len(scores.top(0.4)) == 0


def test_known_values() -> None:
    generator = torch.Generator().manual_seed(0)
    fires = torch.rand(4000, 3, generator=generator) < 0.2
    x = torch.randn(4000, 3, generator=generator).exp() * fires
    x[:, 1] = x[:, 0] * 2
    a = float(fires[:, 0].double().mean())
    entropy = -a * math.log(a / 8) - (1 - a) * math.log(1 - a)  # 8 bins of the active values, and zero
    scores = sleave.mutual_information(x, baseline="none", bins=8)
    assert scores.to_dense()[0, 1].item() == pytest.approx(entropy, abs=1e-3)
    activity = sleave.mutual_information(x, "activity", baseline="none").to_dense()
    assert activity[0, 1].item() == pytest.approx(-a * math.log(a) - (1 - a) * math.log(1 - a), abs=1e-9)
    exclusive = torch.zeros(1000, 2)
    exclusive[:500, 0], exclusive[500:, 1] = 1, 1
    assert sleave.mutual_information(exclusive, "activity", baseline="none").to_dense()[0, 1].item() == pytest.approx(
        math.log(2)
    )


def test_independent_features_score_zero_on_average() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.relu(torch.randn(2048, 200, generator=generator) - 1)
    scores = sleave.mutual_information(x)
    spread = scores.score.std().item() / math.sqrt(scores.num_pairs)
    assert abs(scores.mean()) < 5 * spread
    assert sleave.mutual_information(x, baseline="none").mean() > 50 * spread


def test_topk_codes_are_the_same_as_dense_ones() -> None:
    generator = torch.Generator().manual_seed(2)
    indices = torch.stack([torch.randperm(50, generator=generator)[:6] for _ in range(300)])
    values = torch.rand(300, 6, generator=generator)
    values[0, 2] = 0
    codes = Codes.from_topk(values, indices, 50)
    dense = torch.zeros(300, 50).scatter_(1, indices, values)
    assert torch.equal(codes.to_dense(), dense)
    again = Codes.from_dense(dense)
    for name in ("start", "feature", "value"):
        assert torch.equal(getattr(codes, name), getattr(again, name))
    assert torch.equal(Codes.cat([codes, codes]).to_dense(), dense.repeat(2, 1))


def test_wide_codes_need_little_memory() -> None:
    generator = torch.Generator().manual_seed(3)
    d_sae, k, rows = 65_536, 16, 256
    indices = torch.randint(0, d_sae // k, (rows, k), generator=generator) + torch.arange(k) * (d_sae // k)
    scores = sleave.mutual_information(Codes.from_topk(torch.rand(rows, k, generator=generator), indices, d_sae))
    assert scores.num_pairs == d_sae * (d_sae - 1) // 2
    assert len(scores.i) <= rows * k * k // 2
    assert scores.quantile(0.5) <= scores.quantile(0.999999) <= scores.peak()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sleave.mutual_information(torch.rand(1, 4)), "1 row; mutual information needs at least 2"),
        (lambda: sleave.mutual_information(torch.rand(4)), r"must be \(batch, d_sae\)"),
        (lambda: sleave.mutual_information(torch.rand(8, 3)).top(1.0), r"`fraction` \(= 1.0\)"),
        (lambda: sleave.mutual_information(torch.rand(8, 1)), "d_sae at least 2"),
        (lambda: sleave.mutual_information(torch.full((8, 3), torch.nan)), "NaN or infinite values in 3 of 3 features"),
        (lambda: sleave.mutual_information(torch.rand(8, 3), "atom"), "must be one of 'atoms', 'activity', 'kde'"),
        (lambda: sleave.mutual_information(torch.rand(8, 3), baseline="x"), "must be one of 'permutation', 'shift'"),
        (lambda: sleave.mutual_information(torch.rand(8, 3), bins=0), r"must be in 1\.\.64"),
        (lambda: sleave.mutual_information(torch.rand(8, 3)).quantile(1.0), r"`q` \(= 1.0\) must be in \(0, 1\)"),
        (lambda: sleave.mutual_information(torch.rand(8, 3)).quantile(-0.1), r"must be in \(0, 1\)"),
        (lambda: sleave.mutual_information(torch.rand(8, 3)).top(0.0), r"`fraction` \(= 0.0\)"),
        (lambda: sleave.mutual_information(torch.rand(8, 3)).shrunk(-1), "must be at least 0"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(SleaveError, match=message):
        call()


@pytest.mark.parametrize(
    ("values", "indices", "message"),
    [
        (torch.ones(2, 3), torch.zeros(2, 2, dtype=torch.int64), r"both must be \(batch, k\)"),
        (torch.ones(1, 2), torch.tensor([[0, 9]]), r"must lie in \[0, 9\)"),
        (torch.ones(1, 2), torch.tensor([[-1, 3]]), r"must lie in \[0, 9\)"),
        (torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[5, 5, 5]]), "names a feature twice in one row"),
        (torch.tensor([[1.0, torch.inf]]), torch.tensor([[5, 6]]), "NaN or infinite values in 1 of 9"),
    ],
)
def test_bad_topk_codes(values: torch.Tensor, indices: torch.Tensor, message: str) -> None:
    with pytest.raises(SleaveError, match=message):
        Codes.from_topk(values, indices, 9)


def test_autocast_does_not_round_counts() -> None:
    both = (torch.arange(4096) < 3001).float()[:, None].repeat(1, 2)
    plain = sleave.mutual_information(both, baseline="none").to_dense()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sleave.mutual_information(both, baseline="none").to_dense(), plain)
        kde = sleave.mutual_information(both * 9, "kde")
    assert kde.together.item() == 3001


def test_a_list_of_too_many_pairs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sleave.dependence.scores.MOST_LISTED", 10)
    exclusive = torch.eye(8).repeat(50, 1)
    with pytest.raises(SleaveError, match=r"28 pairs lie above -1, 28 of which never fire together; at most 10"):
        sleave.mutual_information(exclusive).above(-1.0)
    assert len(sleave.mutual_information(exclusive).above(-1.0, min_coactivations=1)) == 0


def test_kde_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sleave.dependence.scores.free_memory", lambda: 1e6)
    with pytest.raises(SleaveError, match=r"estimate of all pairs of 3 features on 5,000 rows needs about 0\.4"):
        sleave.mutual_information(torch.rand(5000, 3), "kde")


def test_what_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = sleave.mutual_information(torch.rand(8, 300))
    monkeypatch.setattr("sleave.dependence.scores.free_memory", lambda: 1e5)
    with pytest.raises(SleaveError, match=r"300 x 300 scores needs about 0.00072 GB of memory, and 0.0001"):
        scores.to_dense()
    with pytest.raises(SleaveError, match="Give fewer rows, or codes of which fewer fire"):
        sleave.mutual_information(torch.rand(8, 300))


def test_dead_and_constant_features_share_nothing() -> None:
    x = torch.rand(500, 4)
    x[:, 1], x[:, 2] = 0, 3.5
    dense = sleave.mutual_information(x).to_dense()
    assert dense[1].abs().max().item() < 1e-12
    assert abs(dense[2, 0].item()) < 0.05


def test_what_is_taken_off_and_who_attracts():
    """Kernels, against what other devices compute."""
    acts = torch.randn(300, 30, generator=torch.Generator().manual_seed(0)).sub(0.8).relu()
    codes = Codes.from_dense(acts)
    scores = sleave.mutual_information(codes, baseline="none")
    expected = torch.rand(len(scores.apart), len(scores.apart), dtype=torch.float64)
    less = scores.less(expected)
    torch.testing.assert_close(less.score, scores.score - expected[scores.group[scores.i], scores.group[scores.j]])
    often = less.together.double() * codes.rows > codes.fired[less.i].double() * codes.fired[less.j]
    assert 0 < int(often.sum()) < len(often)
    wanted = torch.where(often, less.score, 0).clamp(min=0)
    assert torch.equal(less.attracted(codes.fired, codes.rows).score, wanted)
