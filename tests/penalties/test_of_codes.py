"""Every penalty takes codes held as what fires, and says the same of them as of dense ones."""

import math

import pytest
import torch

from sleave.codes.codes import Codes
from sleave.dependence.mutual_information import mutual_information
from sleave.dependence.pairs import Pairs
from sleave.dependence.selection import top_pairs
from sleave.evaluation.codes import CodeStatistics
from sleave.evaluation.information import Information
from sleave.penalties import pairwise
from sleave.penalties.guided import GradientOrthogonality, MIOrtho, TemporalOrthogonality
from sleave.penalties.information import InformationPenalty
from sleave.penalties.informed import InformedOrthogonality
from sleave.penalties.orthogonality import FullOrthogonality, SelectiveOrthogonality
from sleave.penalties.pairwise import pair_penalty

D_SAE, K = 60, 5
PENALTIES = {
    "selective": lambda: SelectiveOrthogonality(top=0.02),
    "selective, pearson": lambda: SelectiveOrthogonality(top=0.02, measure="pearson", min_coactivations=2),
    "selective, window": lambda: SelectiveOrthogonality(top=0.02, window=3, refresh=2),
    "full": lambda: FullOrthogonality(),
    "full, pearson": lambda: FullOrthogonality(measure="pearson"),
    "mi": lambda: MIOrtho(top=0.1),
    "mi, the paper's term": lambda: MIOrtho(top=0.1, normalization="none"),
    "informed": lambda: InformedOrthogonality(top=0.1, window=3, refresh=2),
    "gradient": lambda: GradientOrthogonality(top=0.1),
    "temporal": lambda: TemporalOrthogonality(top=0.1, window=3, refresh=1),
    "information": lambda: InformationPenalty(top=0.01),
    "information, std": lambda: InformationPenalty(top=0.01, bandwidth_scale="std", weighting="information"),
}


def topk(seed, rows=400):
    g = torch.Generator().manual_seed(seed)
    pre = torch.randn(rows, 6, generator=g) @ torch.randn(6, D_SAE, generator=torch.Generator().manual_seed(0))
    values, indices = (pre + torch.randn(rows, D_SAE, generator=g)).relu().topk(K, dim=1)
    return values, indices


@pytest.fixture(params=["walked", "dense"])
def way(request, monkeypatch):
    """Both ways in which a penalty of codes may be computed, whatever would be chosen."""
    monkeypatch.setattr(pairwise, "_walking_is_less_work", lambda codes, pairs: request.param == "walked")
    monkeypatch.setattr(pairwise, "most_to_walk", lambda acts: math.inf if request.param == "walked" else 0)


@pytest.mark.parametrize("name", PENALTIES)
def test_value_gradient_and_pairs_are_the_same(name, way):
    of_dense, of_codes = PENALTIES[name](), PENALTIES[name]()
    W_dec, residual = torch.randn(D_SAE, 8), torch.randn(400, 8)
    for step in range(4):
        values, indices = topk(step)
        values.requires_grad_()
        codes = Codes.from_topk(values, indices, D_SAE)
        dense = codes.to_dense().detach().requires_grad_()
        a, b = of_dense(dense, W_dec, residual), of_codes(codes, W_dec, residual)
        torch.testing.assert_close(b, a)
        assert float(a.detach()) > 0
        (expected,) = torch.autograd.grad(a, dense)
        (gradient,) = torch.autograd.grad(b, values)
        fires = values > 0
        torch.testing.assert_close(gradient[fires], expected.gather(1, indices)[fires], rtol=1e-4, atol=1e-8)
        assert torch.equal(of_codes.pairs.i, of_dense.pairs.i)
        assert torch.equal(of_codes.pairs.j, of_dense.pairs.j)
    assert of_codes.figures() == pytest.approx(of_dense.figures(), rel=1e-5, nan_ok=True)
    assert of_codes.state().keys() == of_dense.state().keys()


@pytest.mark.parametrize("measure", ["cosine", "pearson", "dot"])
@pytest.mark.parametrize("pairs", ["some", "all"])
def test_pair_penalty(measure, pairs, way):
    values, indices = (t.double() if t.is_floating_point() else t for t in topk(1))
    codes = Codes.from_topk(values.requires_grad_(), indices, D_SAE)
    chosen = Pairs(torch.tensor([0, 2, 7]), torch.tensor([5, 3, 59]), torch.ones(3)) if pairs == "some" else None
    weight = torch.tensor([0.5, 2.0, 1.0]) if pairs == "some" else None
    assert torch.autograd.gradcheck(
        lambda v: pair_penalty(Codes.from_topk(v, indices, D_SAE), chosen, weight, measure),
        values.detach().requires_grad_(),
        fast_mode=True,
    )
    torch.testing.assert_close(
        pair_penalty(codes, chosen, weight, measure), pair_penalty(codes.to_dense(), chosen, weight, measure, "dense")
    )


def test_every_measure_and_metric_takes_both():
    codes = Codes.from_topk(*topk(3), D_SAE)
    dense = codes.to_dense()
    for measure in ("cosine", "pearson"):
        a, b = (top_pairs(acts, 0.05, measure=measure) for acts in (codes, dense))
        assert a.jaccard(b) > 0.98  # scores are summed in another order, so ties may part
        torch.testing.assert_close(a.score, b.score)
    for estimator in ("atoms", "activity", "kde"):
        torch.testing.assert_close(
            mutual_information(codes, estimator).to_dense(), mutual_information(dense, estimator).to_dense()
        )
    for metric in (Information, lambda: CodeStatistics(torch.ones(D_SAE))):
        ours, theirs = metric(), metric()
        ours.update(codes)
        theirs.update(dense)
        found, expected = ({k: v for k, v in vars(m.compute()).items() if k != "density"} for m in (ours, theirs))
        assert found == pytest.approx(expected, rel=1e-6)


def test_a_few_pairs_of_many_features_are_walked():
    """Making 16,384 columns dense for five pairs would take a hundred times as long."""
    values, indices = torch.rand(4096, 32), torch.rand(4096, 16_384).topk(32, dim=1).indices
    codes = Codes.from_topk(values, indices, 16_384)
    few = Pairs(torch.arange(5), torch.arange(5) + 1, torch.ones(5))
    assert pairwise._walking_is_less_work(codes, few)
