"""Selection against brute force over every pair."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sleave.base.errors import SleaveError
from sleave.codes.codes import Codes
from sleave.dependence import selection
from sleave.dependence.correlation import pair_correlation, unit_columns
from sleave.dependence.pairs import top_count
from sleave.dependence.selection import top_pairs
from sleave.dependence.window import Window


def brute_force(acts, top, measure="cosine", min_coactivations=0, shrinkage=0.0):
    """Sort every pair by (-|C|, i, j) and take the first; C by the library's own sum, so that ties are ties."""
    unit, _ = unit_columns(acts, measure)
    every = torch.tensor(list(combinations(range(acts.shape[1]), 2)))
    score = pair_correlation(unit, every[:, 0], every[:, 1]).abs()
    score[score <= selection.NOISE[score.dtype]] = 0
    fires = (acts != 0).double()
    together = (fires.T @ fires)[every[:, 0], every[:, 1]]
    if shrinkage:
        score = score * (together / (together + shrinkage)).to(score.dtype)
    allowed = [k for k in range(len(every)) if together[k] >= min_coactivations]
    allowed.sort(key=lambda k: (-float(score[k]), *every[k].tolist()))
    chosen = allowed[: max(1, round(top * len(every)))]
    if min_coactivations:
        chosen = [k for k in chosen if score[k] > 0]
    return [(*every[k].tolist(), float(score[k])) for k in chosen]


def as_list(pairs):
    return list(zip(*(part.tolist() for part in pairs.ranked()), strict=True))


def random_codes(seed, rows, d_sae, density, whole=False):
    g = torch.Generator().manual_seed(seed)
    fires = torch.rand(rows, d_sae, generator=g) < density
    size = torch.randint(1, 4, (rows, d_sae), generator=g).float() if whole else torch.rand(rows, d_sae, generator=g)
    return fires * size


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 40),
    d_sae=st.integers(2, 30),
    density=st.sampled_from([0.0, 0.03, 0.2, 1.0]),
    whole=st.booleans(),  # small whole numbers make many exact ties
    top=st.sampled_from([0.001, 0.05, 0.3, 1.0]),
    measure=st.sampled_from(["cosine", "pearson"]),
    screen=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    min_coactivations=st.sampled_from([0, 1, 3]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    shift=st.sampled_from([0.0, 0.0, 0.3]),  # then some codes are negative
    repeat=st.booleans(),  # equal columns tie exactly
)
def test_equals_brute_force(
    seed, rows, d_sae, density, whole, top, measure, screen, min_coactivations, dtype, shift, repeat
):
    acts = random_codes(seed, rows, d_sae, density, whole).to(dtype) - shift
    if repeat:
        acts = acts[:, torch.arange(d_sae) // 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "TILE", 8)  # many tiles, ragged at the edge
        chosen = top_pairs(acts, top, measure=measure, min_coactivations=min_coactivations, screen=screen)
    assert as_list(chosen) == brute_force(acts, top, measure, min_coactivations)


def test_a_pair_that_bf16_puts_in_the_wrong_order():
    """C = 127/222 > 143/250, but the bfloat16 of 1/sqrt(222) is low and that of 1/sqrt(250) is high."""
    acts = torch.zeros(700, 64)
    acts[:222, 0] = acts[95:317, 1] = 1
    acts[320:570, 2] = acts[427:677, 3] = 1
    tiles = [unit_columns(acts)[0].to(dtype) for dtype in (torch.float32, torch.bfloat16)]
    exact, rounded = ((float(z[0] @ z[1]), float(z[2] @ z[3])) for z in tiles)
    assert exact[0] > exact[1]
    assert rounded[0] < rounded[1] * (1 - 3.1 * 2**-9)  # further off than half the bound would allow for
    for screen in (torch.float32, torch.bfloat16):
        assert as_list(top_pairs(acts, 0.0005, screen=screen))[0][:2] == (0, 1)


@pytest.mark.parametrize("measure", ["cosine", "pearson"])
@pytest.mark.parametrize("signed", [False, True])
def test_bf16_tiles_choose_what_float32_tiles_choose(measure, signed):
    acts = random_codes(0, 512, 1500, 0.05) - (0.02 if signed else 0.0)
    exact, fast = (top_pairs(acts, measure=measure, screen=s) for s in (torch.float32, torch.bfloat16))
    assert as_list(exact) == as_list(fast)


def test_scores_agree_with_numpy():
    acts = random_codes(1, 200, 40, 0.3)
    pairs = top_pairs(acts, 1.0, measure="pearson")
    truth = np.abs(np.corrcoef(acts.double().numpy().T))
    np.testing.assert_allclose(pairs.score, truth[pairs.i, pairs.j], atol=2e-6)
    cosine = top_pairs(acts, 1.0)
    f = acts.double().numpy()
    truth = f.T @ f / np.outer(np.linalg.norm(f, axis=0), np.linalg.norm(f, axis=0))
    np.testing.assert_allclose(cosine.score, truth[cosine.i, cosine.j], atol=2e-6)


def test_zeros_count_and_ties_go_to_the_first_pair():
    acts = torch.zeros(4, 5)
    acts[:, 3] = acts[:, 4] = 1
    assert as_list(top_pairs(acts, 0.3)) == [(3, 4, 1.0), (0, 1, 0.0), (0, 2, 0.0)]


def test_a_constant_feature_has_no_pearson_correlation():
    acts = torch.rand(50, 3)
    acts[:, 1] = 3.3
    pairs = top_pairs(acts, 1.0, measure="pearson")
    assert [s for i, j, s in as_list(pairs) if 1 in (i, j)] == [0, 0]


def test_min_coactivations_drops_the_accidental_pair():
    acts = torch.zeros(100, 4)
    acts[0, 0] = acts[0, 1] = 1  # fire once, together: C = 1
    acts[10:40, 2] = acts[20:50, 3] = 1
    assert as_list(top_pairs(acts, 0.1))[0][:2] == (0, 1)
    assert [p[:2] for p in as_list(top_pairs(acts, 0.1, min_coactivations=5))] == [(2, 3)]


def test_autocast_outside_does_not_change_the_choice():
    acts = random_codes(3, 256, 300, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = top_pairs(acts, 0.01, screen=torch.float32)
    assert as_list(inside) == as_list(top_pairs(acts, 0.01, screen=torch.float32))


def test_permuting_features_permutes_the_choice():
    acts = random_codes(4, 128, 60, 0.3)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    plain = {(i, j) for i, j, _ in as_list(top_pairs(acts, 0.05))}
    moved = {tuple(sorted((int(order[i]), int(order[j])))) for i, j, _ in as_list(top_pairs(acts[:, order], 0.05))}
    assert moved == plain


@pytest.mark.parametrize("shape", [(1, 4), (6, 2), (5, 5)])
@pytest.mark.parametrize("measure", ["cosine", "pearson"])
def test_the_codes_are_left_as_they_are(shape, measure):
    acts = random_codes(0, *shape, 0.8)
    before = acts.clone()
    top_pairs(acts, 0.5, measure=measure)
    assert torch.equal(acts, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_what_is_not_finite(bad):
    acts = torch.rand(8, 4)
    acts[2, 1] = bad
    with pytest.raises(SleaveError, match="NaN or infinite values in 1 of 4 features"):
        top_pairs(acts)


def test_window_pools_numerators_and_norms_separately():
    batches = [random_codes(s, 30, 12, 0.3) for s in range(4)]
    window = Window(3)
    for batch in batches:
        window.push(batch)
    stacked = window.codes()
    assert torch.equal(stacked.to_dense(), torch.cat(batches[1:]))
    numerator = sum(b.T @ b for b in batches[1:])
    norm = sum(b.square().sum(0) for b in batches[1:]).sqrt()
    pooled = (numerator / norm[:, None] / norm).nan_to_num()
    for i, j, score in as_list(top_pairs(stacked, 1.0)):
        assert score == pytest.approx(float(pooled[i, j]), abs=1e-6)


def test_window_state_goes_on_as_if_never_stopped():
    window = Window(3)
    for seed in range(5):
        window.push(random_codes(seed, 6, 5, 0.3))
    copy = Window(3)
    copy.restore(window.state())
    for one in (copy, window):
        one.push(random_codes(9, 6, 5, 0.3))
    assert torch.equal(copy.codes().to_dense(), window.codes().to_dense())


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 40),
    d_sae=st.integers(2, 30),
    density=st.sampled_from([0.0, 0.03, 0.2, 1.0]),
    top=st.sampled_from([0.001, 0.05, 0.3, 1.0]),
    min_coactivations=st.sampled_from([0, 1, 3]),
    shrinkage=st.sampled_from([0.0, 0.5, 5.0]),
    measure=st.sampled_from(["cosine", "pearson"]),
)
def test_codes_give_what_dense_ones_give(seed, rows, d_sae, density, top, min_coactivations, shrinkage, measure):
    acts = random_codes(seed, rows, d_sae, density).double()
    chosen = {"measure": measure, "min_coactivations": min_coactivations, "shrinkage": shrinkage}
    dense = top_pairs(acts, top, **chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "coactivations_are_few", lambda codes: True)
        walked = top_pairs(Codes.from_dense(acts), top, **chosen)
    assert as_list(dense) == [
        (i, j, pytest.approx(s, abs=1e-12)) for i, j, s in brute_force(acts, top, measure, min_coactivations, shrinkage)
    ]
    assert sorted(walked.score.tolist()) == pytest.approx(sorted(dense.score.tolist()), abs=1e-12)
    every = {(i, j): s for i, j, s in brute_force(acts, 1.0, measure, 0, shrinkage)}
    assert all(s == pytest.approx(every[i, j], abs=1e-12) for i, j, s in as_list(walked))  # rounding may break ties


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(2, 60),
    d_sae=st.integers(2, 60),
    top=st.sampled_from([0.001, 0.01, 0.1, 0.5]),
    kinds=st.sampled_from([2, 10, 60]),
    threads=st.sampled_from([1, 2]),
)
def test_of_pairs_that_are_equally_strong_the_first_are_walked_to(seed, rows, d_sae, top, kinds, threads):
    """Features of a few kinds, so that many scores are one and the same."""
    few = (random_codes(seed, rows, kinds, 0.2) != 0).float()
    acts = few[:, torch.randint(kinds, (d_sae,), generator=torch.Generator().manual_seed(seed))]
    together = acts.double().T @ acts.double()
    score = (together / together.diagonal().outer(together.diagonal()).sqrt()).nan_to_num().float()
    i, j = torch.triu_indices(d_sae, d_sae, 1)
    order = torch.argsort(-score[i, j], stable=True)[: top_count(top, d_sae)]
    expected = sorted(zip(i[order].tolist(), j[order].tolist(), strict=True))
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "coactivations_are_few", lambda codes: True)
        torch.set_num_threads(threads)
        walked = top_pairs(Codes.from_dense(acts), top)
        torch.set_num_threads(before)
    assert list(zip(walked.i.tolist(), walked.j.tolist(), strict=True)) == expected
    torch.testing.assert_close(walked.score, score[walked.i, walked.j], rtol=1e-6, atol=0)


@pytest.mark.parametrize("measure", ["cosine", "pearson"])
@pytest.mark.parametrize("screen", [torch.float32, torch.bfloat16])
def test_shrinkage_with_every_screen(measure, screen, monkeypatch):
    monkeypatch.setattr(selection, "TILE", 16)
    acts = random_codes(3, 300, 60, 0.1)
    chosen = top_pairs(acts, 0.05, measure=measure, shrinkage=5.0, screen=screen)
    expected = brute_force(acts, 0.05, measure, 0, 5.0)
    assert [(i, j) for i, j, _ in as_list(chosen)] == [(i, j) for i, j, _ in expected]


def test_gradients_are_compared_and_codes_counted():
    fires = random_codes(1, 50, 12, 0.2)
    gradient = torch.randn(50, 12, generator=torch.Generator().manual_seed(2))
    chosen = top_pairs(gradient, 1.0, min_coactivations=3, fires=fires)
    together = (fires > 0).float().T @ (fires > 0).float()
    assert len(chosen) == int((together.triu(1) >= 3).sum())
    unit = torch.nn.functional.normalize(gradient, dim=0)
    torch.testing.assert_close(chosen.score, (unit.T @ unit)[chosen.i, chosen.j].abs())
    assert as_list(top_pairs(Codes.from_dense(gradient), 1.0, min_coactivations=3, fires=Codes.from_dense(fires))) == (
        as_list(chosen)
    )


def test_shrinkage_is_exact_where_bf16_would_choose_another_pair():
    """C m / (m + 5) is .062533 of the first two and .062523 of the others."""
    acts = torch.zeros(12_300, 4)
    acts[:956, 0] = acts[836:4386, 1] = 1
    acts[4400:8464, 2] = acts[8205:12269, 3] = 1
    for screen in (torch.float64, torch.float32, torch.bfloat16):
        chosen = top_pairs(acts, 0.1, shrinkage=5.0, screen=screen)
        assert (chosen.i.tolist(), chosen.j.tolist()) == ([0], [1])
    assert top_pairs(Codes.from_dense(acts), 0.1, shrinkage=5.0).i.tolist() == [0]


def test_what_needs_all_rows_at_once_says_so(monkeypatch):
    monkeypatch.setattr("sleave.dependence.scores.free_memory", lambda: 1e3)
    with pytest.raises(SleaveError, match="All the rows at once, densely, needs about"):
        top_pairs(Codes.from_dense(random_codes(0, 30, 12, 1.0)))


def test_codes_so_small_that_their_norms_underflow_are_walked(monkeypatch):
    monkeypatch.setattr(selection, "coactivations_are_few", lambda codes: True)
    acts = torch.full((1001, 6), 1.5e-162, dtype=torch.float64)
    acts[0] = 2e-162  # the only square that is not 0, so that |C| is far above 1
    chosen = top_pairs(Codes.from_dense(acts), 0.2)
    assert (chosen.i.tolist(), chosen.j.tolist()) == ([0, 0, 0], [1, 2, 3])
