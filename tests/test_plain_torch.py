"""What a GPU would run, plain torch alone, says the same as the kernels of CPUs; on a GPU, if there is one."""

import contextlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_run import run_settings

from sleave.base.ranks import ALONE
from sleave.codes.codes import Codes
from sleave.codes.compiled import plain_torch
from sleave.codes.largest import largest_of_batch, largest_of_rows
from sleave.dependence import coactivation, information, selection
from sleave.dependence.mutual_information import mutual_information
from sleave.dependence.pairs import Pairs
from sleave.dependence.selection import top_pairs
from sleave.penalties import pairwise
from sleave.training.loop import begin
from sleave.training.step import Stepper

ON_GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))


@pytest.fixture(params=["cpu", ON_GPU])
def there(request):
    """Where plain torch is to compute: on the CPU, and on a GPU."""
    return torch.device(request.param)


def plainly(there, compute, *given):
    """What plain torch makes of tensors and codes there."""
    inside = plain_torch() if there.type == "cpu" else contextlib.nullcontext()
    with inside:
        return compute(*(moved(part, there) for part in given))


def moved(part, there):
    if isinstance(part, Codes):
        return Codes(part.d_sae, part.start.to(there), part.feature.to(there), part.value.to(there))
    if isinstance(part, Pairs):
        return Pairs(part.i.to(there), part.j.to(there), part.score.to(there))
    return part.to(there)


def sparse(seed=0, rows=300, d_sae=80, k=6):
    g = torch.Generator().manual_seed(seed)
    pre = torch.randn(rows, 5, generator=g) @ torch.randn(5, d_sae, generator=torch.Generator().manual_seed(1))
    return Codes.from_topk(*(pre + torch.randn(rows, d_sae, generator=g)).relu().topk(k, dim=1), d_sae)


@pytest.fixture(autouse=True)
def _some_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(coactivation, "CHUNK", 100)


@pytest.fixture
def walked(monkeypatch):
    """Whatever would take less work."""
    monkeypatch.setattr(selection, "coactivations_are_few", lambda codes: True)
    monkeypatch.setattr(information, "_sparse_is_faster", lambda atoms: True)


def test_what_fires_together(there):
    codes = sparse()
    found = plainly(there, coactivation.dots, codes)
    for mine, theirs in zip(found, coactivation.dots(codes), strict=True):
        torch.testing.assert_close(mine.cpu(), theirs)
    assert len(found[0]) > 1000


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_nothing_fires_together(rows, there):
    """Rows of which one feature fires, or none."""
    start = torch.arange(8).clamp(max=rows)
    codes = Codes(9, start, torch.arange(rows), torch.ones(rows))
    i, j, together, dot = plainly(there, coactivation.dots, codes)
    assert len(i) == len(j) == len(together) == len(dot) == 0
    assert not plainly(there, mutual_information, codes).i.numel()


@pytest.mark.parametrize("measure", ["cosine", "pearson"])
@pytest.mark.usefixtures("walked")
def test_the_most_correlated(measure, there):
    codes = sparse()
    expected = top_pairs(codes, 0.1, measure=measure)
    pairs = plainly(there, lambda c: top_pairs(c, 0.1, measure=measure), codes)
    assert torch.equal(pairs.i.cpu(), expected.i)
    assert torch.equal(pairs.j.cpu(), expected.j)
    torch.testing.assert_close(pairs.score.cpu(), expected.score)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 60),
    top=st.sampled_from([0.002, 0.02, 0.3]),
    whole=st.booleans(),  # many equal scores
    min_coactivations=st.sampled_from([0, 1, 3]),
    shrinkage=st.sampled_from([0.0, 2.0]),
)
def test_the_strongest_are_kept_and_of_equal_ones_the_first(seed, rows, top, whole, min_coactivations, shrinkage):
    codes = sparse(seed, rows, 60, 8)
    codes = codes.with_value(codes.value.ceil()) if whole else codes
    rules = {"min_coactivations": min_coactivations, "shrinkage": shrinkage}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "coactivations_are_few", lambda codes: True)
        pairs = top_pairs(codes, top, **rules)
        with plain_torch():
            expected = top_pairs(codes, top, **rules)
    assert torch.equal(pairs.i, expected.i)
    assert torch.equal(pairs.j, expected.j)
    assert torch.equal(pairs.score, expected.score)


@pytest.mark.parametrize("estimator", ["atoms", "activity", "kde"])
@pytest.mark.parametrize("baseline", ["permutation", "shift", "none"])
@pytest.mark.parametrize("way", ["walked", "as it is"])
def test_mutual_information(estimator, baseline, way, there, request):
    if way == "walked":
        request.getfixturevalue("walked")

    def scores(codes):
        every = mutual_information(codes, estimator, baseline=baseline).shrunk(0.5)
        return every.to_dense(), every.quantile(0.9), every.attracted(codes.fired, codes.rows).top(0.05)

    codes = sparse(rows=120, d_sae=40, k=4)
    (dense, quantile, top), (expected, q, chosen) = plainly(there, scores, codes), scores(codes)
    torch.testing.assert_close(dense.cpu(), expected, rtol=1e-5, atol=1e-9)
    assert quantile == pytest.approx(q, rel=1e-5)
    assert len(chosen)
    assert torch.equal(top.i.cpu(), chosen.i)
    assert torch.equal(top.j.cpu(), chosen.j)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 999),
    rows=st.integers(1, 30),
    share=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    measure=st.sampled_from(["cosine", "pearson", "dot"]),
    power=st.sampled_from([1, 2]),
    ordered=st.booleans(),
)
def test_penalty_of_codes(seed, rows, share, measure, power, ordered):
    g = torch.Generator().manual_seed(seed)
    codes = sparse(seed, rows, 20, 4)
    i, j = torch.triu_indices(20, 20, offset=1)[:, torch.rand(190, generator=g) < share]
    order = torch.arange(len(i)) if ordered else torch.randperm(len(i), generator=g)
    pairs, weight = Pairs(i[order], j[order], torch.ones(len(i))), torch.rand(len(i), generator=g)
    given = (pairs, weight, measure, power, ALONE)
    expected = pairwise._over_coactivations(codes, *given)
    with plain_torch():
        found = pairwise._over_coactivations(codes, *given)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_largest(there):
    g = torch.Generator().manual_seed(0)
    x, W, b = (torch.randint(-2, 3, shape, generator=g).float() for shape in ((50, 3), (3, 90), (90,)))  # many ties
    for largest, count in ((largest_of_rows, 7), (largest_of_rows, 200), (largest_of_batch, 300)):
        found = plainly(there, lambda *given: largest(*given, count), x, W, b)  # noqa: B023
        assert torch.equal(found.to_dense().cpu(), largest(x, W, b, count).to_dense())


KINDS = {
    "relu": {},
    "gated": {},
    "jumprelu": {},
    "topk": {"k": 3},
    "batch_topk": {"k": 3},
    "matryoshka": {"k": 3, "levels": (0.25, 1.0)},
}
CONSTRAINTS = {
    "none": {},
    "full": {"weight": 0.5},
    "selective": {"weight": 0.5, "refresh": 2, "window": 2},
    "mi": {"weight": 5.0, "refresh": 2},
    "informed": {"weight": 5.0, "refresh": 2, "window": 2},
    "information": {"weight": 0.5, "refresh": 2},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_training(kind, constraint, there):
    g = torch.Generator().manual_seed(3)
    x = torch.randn(512, 5, generator=g) @ torch.randn(5, 16, generator=g) + torch.randn(512, 16, generator=g)

    def trained(rows):
        stepper: Stepper = begin(
            run_settings(
                autoencoder={"kind": kind, "d_sae": 24, **KINDS[kind]},
                constraint={"kind": constraint, **CONSTRAINTS[constraint]},
                training={"device": str(rows.device)},
            ),
            x,
        )
        losses = [stepper.step(rows[n * 128 :][:128], lr=0.01, sparsity_weight=0.1).loss for n in range(4)]
        return losses, {name: p.detach().cpu() for name, p in stepper.sae.named_parameters()}

    (losses, weights), (expected, theirs) = plainly(there, trained, x), trained(x)
    assert losses == pytest.approx(expected, rel=1e-4)
    for name, mine in weights.items():
        torch.testing.assert_close(mine, theirs[name], rtol=1e-3, atol=1e-4, msg=name)
