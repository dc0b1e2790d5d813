"""Differences to a baseline: paired, at like L0, across seeds, and what is said where they cannot be had."""

import math

import pytest
import torch
from scipy import stats

from sleave.base.errors import SleaveError
from sleave.evaluation.compare import compare
from sleave.evaluation.figures import FIGURES, FVU
from sleave.evaluation.methods import Method, methods

DRAW = torch.Generator().manual_seed(0)
HARD = torch.randn(10, generator=DRAW)  # what makes leaving a group out change everybody's figures


def run(constraint="none", fvu=0.3, l0=40.0, own=0.0, fingerprint="rows", shared=0.01, seed=None, **more):
    """Results of a run; `own` is how far its groups differ beside what all runs share."""
    noise = own * torch.randn(10, generator=DRAW)
    training = {"architecture": "relu", "constraint": constraint, "d_in": 8, "d_sae": 16}
    if seed is not None:
        training |= {"seed": seed, "recipe": constraint}
    groups = {"scaled.fvu": (fvu + shared * HARD + noise).tolist(), "codes.l0": (l0 * (1 + 0.01 * HARD)).tolist()}
    return {
        "training": training | more,
        "heldout": {"fingerprint": fingerprint, "scaled": {"fvu": fvu}, "codes": {"l0": l0}, "groups": groups},
    }


def of(comparison, path=FVU):
    (found,) = [d for d in comparison.differences if d.figure.path == path]
    return found


def test_what_is_shared_does_not_widen_the_interval():
    runs = {"a": run(), "b": run("mi", 0.31, own=0.001)}
    (c,) = compare(runs)
    d = of(c)
    difference = torch.tensor(runs["b"]["heldout"]["groups"]["scaled.fvu"]) - torch.tensor(
        runs["a"]["heldout"]["groups"]["scaled.fvu"]
    )
    half = stats.t.ppf(0.975, 9) * 3 * float(difference.std(correction=0))
    assert d.interval == pytest.approx((0.01 - half, 0.01 + half), abs=1e-6)
    assert (c.method, c.baseline, c.status, c.notes, d.verdict) == ("b", ("a",), "ok", (), "worse")
    alone = Method({"a": runs["a"]}).interval(FVU)
    assert alone[1] - alone[0] > 5 * 2 * half
    other = compare({"a": run(), "b": run("mi", 0.31, own=0.001, fingerprint="others")}, ["a"])[0]
    assert of(other).verdict == "within noise"
    assert "measured on other rows" in other.notes[0]


@pytest.mark.parametrize(
    ("path", "change", "verdict"),
    [
        ("heldout.scaled.fvu", -0.1, "better"),
        ("heldout.scaled.fvu", 0.1, "worse"),
        ("heldout.scaled.cosine", -0.1, "worse"),
        ("heldout.scaled.cosine", 0.1, "better"),
        ("heldout.scaled.norm_ratio", 0.1, None),
        ("heldout.scaled.cosine", 0.0001, "within noise"),
    ],
)
def test_verdicts(path, change, verdict):
    runs = {"a": run(own=0.001), "b": run("mi", own=0.001)}
    name = path.removeprefix("heldout.scaled.")
    for number, results in enumerate(runs.values()):
        value = 0.5 + number * change
        results["heldout"]["scaled"][name] = value
        noise = 0.001 * torch.randn(10, generator=DRAW)
        results["heldout"]["groups"][f"scaled.{name}"] = (value + noise).tolist()
    assert of(compare(runs)[0], path).verdict == verdict


def test_without_intervals_there_is_no_verdict():
    runs = {"a": run(), "b": run("mi", 0.9)}
    runs["a"]["heldout"]["groups"] = {}
    d = of(compare(runs)[0])
    assert (d.difference, d.interval, d.verdict) == (pytest.approx(0.6), None, None)


def test_intervals_that_a_part_gives():
    runs = {"a": run(), "b": run("mi")}
    for name, value in (("a", 0.9), ("b", 0.8)):
        part = {"status": "ok", "ce_loss_score": value, "intervals": {"ce_loss_score": [value - 0.03, value + 0.03]}}
        runs[name]["fidelity"] = part
    d = of(compare(runs)[0], "fidelity.ce_loss_score")
    half = 0.03 * math.sqrt(2)
    assert d.interval == pytest.approx((-0.1 - half, -0.1 + half))
    assert d.verdict == "worse"


def test_another_sparsity_is_said():
    (c,) = compare({"a": run(l0=53.9), "b": run("mi", l0=49.5)})
    assert c.notes == ("not at like L0, so no verdicts: 49.5 against 53.9",)
    assert all(d.verdict is None for d in c.differences)
    assert of(c).interval is not None
    (like,) = compare({"a": run(l0=50.0), "b": run("mi", l0=51.0)})
    assert (like.notes, of(like).verdict) == ((), "within noise")


def frontier():
    """FVU falls linearly in log L0, by 0.1 from 20 to 40 and from 40 to 80."""
    return {f"l0 {l0}": run(fvu=0.5 - 0.1 * math.log2(l0 / 20), l0=l0) for l0 in (80.0, 20.0, 40.0)}


def test_the_baseline_is_taken_at_the_runs_own_l0():
    fvu = 0.5 - 0.1 * math.log2(30 / 20)
    (c,) = compare({**frontier(), "b": run("mi", fvu + 0.02, l0=30.0)})
    assert c.baseline == ("l0 20.0", "l0 40.0")
    assert c.notes == ("at L0 30",)
    d = of(c)
    assert d.baseline == pytest.approx(fvu)
    assert d.interval == pytest.approx((0.02, 0.02), abs=1e-6)  # all share their groups, and their L0 changes alike
    assert d.verdict == "worse"
    assert "heldout.codes.l0" not in {d.figure.path for d in c.differences}


def test_at_like_fvu():
    (c,) = compare({**frontier(), "b": run("mi", math.sqrt(0.5 * 0.4), l0=33.0)}, match="fvu")
    assert c.baseline == ("l0 40.0", "l0 20.0")
    assert of(c, "heldout.codes.l0").baseline == pytest.approx(30)


@pytest.mark.parametrize("l0", [19.0, 90.0])
def test_nothing_is_extrapolated(l0):
    (c,) = compare({**frontier(), "b": run("mi", 0.4, l0=l0)})
    assert (c.status, c.differences) == ("outside_frontier", ())
    assert c.notes[0].startswith(f"L0 {l0:.4g} is outside that of the baselines, 20 to 80; train either at")
    (near,) = compare({**frontier(), "b": run("mi", 0.4, l0=81.0)})
    assert (near.status, near.baseline) == ("ok", ("l0 80.0",))


def test_what_is_matched_is_not_compared():
    """At like FVU, neither it nor the same in other units has a verdict; and near is not near enough of the effect."""
    (c,) = compare({"a": run(fvu=0.4), "b": run("mi", 0.4 * 1.004)}, match="fvu")
    assert "heldout.scaled.fvu" not in {d.figure.path for d in c.differences}
    (far,) = compare({"a": run(fvu=0.4), "b": run("mi", 0.4 * 1.01)}, match="fvu")
    assert "not at like FVU" in far.notes[0]


def test_known_features_are_compared_within_their_own_worlds():
    """Whatever the L0 of the run, and with the interval that the family gives, which is paired."""
    own = {"status": "ok", "mcc": 0.8, "intervals": {"mcc": [0.7, 0.9]}, "settings": {}}
    with_gain = own | {"gain": {"mcc": -0.05}, "gain_intervals": {"mcc": [-0.06, -0.04]}}
    runs = {
        "a": run(l0=50.0) | {"ground_truth": own | {"mcc": 0.9}},
        "b": run("mi", l0=30.0) | {"ground_truth": with_gain},
    }
    (c,) = compare(runs)
    assert "not at like L0" in c.notes[0]
    d = of(c, "ground_truth.mcc")
    assert (d.difference, d.interval, d.verdict) == (pytest.approx(-0.05), (-0.06, -0.04), "worse")


def test_the_gain_of_several_seeds_is_that_of_their_worlds():
    """Known features hang on no run's seed; a run without a constraint, held against another, has no gain."""
    own = {"status": "ok", "mcc": 0.8, "intervals": {"mcc": [0.7, 0.9]}, "settings": {}, "gain": None}
    with_gain = own | {"gain": {"mcc": 0.05}, "gain_intervals": {"mcc": [0.04, 0.06]}}
    runs = {f"a{n}": run(seed=n) | {"ground_truth": own} for n in (0, 1)}
    runs |= {f"b{n}": run("mi", seed=n) | {"ground_truth": with_gain} for n in (0, 1)}
    d = of(compare(runs)[0], "ground_truth.mcc")
    assert (d.difference, d.interval, d.verdict) == (pytest.approx(0.05), (0.04, 0.06), "better")
    other = {"c": run(seed=0) | {"ground_truth": own}, "d": run(seed=1) | {"ground_truth": own}}
    other["d"]["training"]["recipe"] = "denser"
    assert of(compare(other, ["c"])[0], "ground_truth.mcc").verdict == "within noise"


def test_seeds_are_taken_together():
    values = [0.30, 0.33, 0.36]
    runs = {f"b{n}": run("mi", v, seed=n) for n, v in enumerate(values)}
    (c,) = compare({"a": run(fvu=0.3), **runs})
    assert (c.method, c.runs) == ("b0 and 2 more seeds", ("b0", "b1", "b2"))
    d = of(c)
    assert d.difference == pytest.approx(0.03)
    spread = math.hypot(stats.sem(values), 0.03)  # of a mean of three, and of one run of a spread like theirs
    low, high = stats.t.interval(0.95, 2, loc=0.03, scale=spread)
    assert d.interval == pytest.approx((low, high))  # wider than that over documents, which all share
    assert d.verdict == "within noise"
    both = {f"a{n}": run("none", v, seed=n) for n, v in enumerate((0.2, 0.21))}
    spread = math.hypot(stats.sem(values), stats.sem([0.2, 0.21]))
    half = stats.t.ppf(0.975, 1) * spread
    assert of(compare({**both, **runs})[0]).interval == pytest.approx((0.125 - half, 0.125 + half))


def test_the_same_seeds_are_compared_one_by_one():
    """They share start and batches: what makes a seed hard for both does not widen the interval."""
    none, mi = [0.30, 0.34, 0.38], [0.303, 0.344, 0.381]
    runs = {f"a{n}": run("none", v, seed=n) for n, v in enumerate(none)}
    runs |= {f"b{n}": run("mi", mi[n], seed=n) for n in (2, 0, 1)}
    d = of(compare(runs)[0])
    each = [b - a for a, b in zip(none, mi, strict=True)]
    assert d.difference == pytest.approx(sum(each) / 3)
    low, high = stats.t.interval(0.95, 2, loc=d.difference, scale=stats.sem(each))
    assert d.interval == pytest.approx((low, high))
    others = {name: results for name, results in runs.items() if name != "a2"}
    assert of(compare(others)[0]).interval[1] - of(compare(others)[0]).interval[0] > 10 * (high - low)


def test_the_same_seeds_between_two_baselines():
    l0s, fvus = {"a": 30.0, "c": 50.0, "mi": 40.0}, {"a": 0.3, "c": 0.2, "mi": 0.26}
    shift = [0.0, 0.05, 0.1]
    runs = {
        f"{name}{n}": run("mi" if name == "mi" else "none", fvus[name] + s, l0s[name], seed=n)
        for name in l0s
        for n, s in enumerate(shift)
    }
    for name in ("c0", "c1", "c2"):
        runs[name]["training"]["recipe"] = "denser"
    d = of(compare(runs)[0])
    weight = math.log(40 / 30) / math.log(50 / 30)
    assert d.difference == pytest.approx(0.26 - (0.3 - 0.1 * weight))
    documents = 2 * stats.t.ppf(0.975, 9) * 3 * 0.01 * float(HARD.std(correction=0))
    assert d.interval[1] - d.interval[0] < 0.01 * documents  # a seed shifts all alike, and so do documents


def test_the_seeds_of_a_baseline_count_too():
    values = [0.30, 0.33, 0.36]
    d = of(compare({f"a{n}": run("none", v, seed=n) for n, v in enumerate(values)} | {"b": run("mi", 0.36, seed=0)})[0])
    half = stats.t.ppf(0.975, 2) * math.hypot(stats.sem(values), 0.03)
    assert d.interval == pytest.approx((0.03 - half, 0.03 + half))
    assert d.verdict == "within noise"


def part(value, half, figure, **more):
    return {"status": "ok", figure: value, "intervals": {figure: [value - half, value + half]}} | more


def test_seeds_do_not_shrink_what_they_do_not_change():
    """Known features are trained with seeds of their own: three runs of a recipe have the same figures."""
    runs = {f"b{n}": run("mi", seed=n) | {"ground_truth": part(0.9, 0.05, "mcc")} for n in range(3)}
    assert Method(runs).interval("ground_truth.mcc") == pytest.approx((0.85, 0.95))
    d = of(compare({"a": run() | {"ground_truth": part(0.88, 0.05, "mcc")}, **runs})[0], "ground_truth.mcc")
    half = math.hypot(0.05, 0.05)
    assert d.interval == pytest.approx((0.02 - half, 0.02 + half))
    assert d.verdict == "within noise"


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_ready_intervals_of_several_seeds(spread):
    values, halves = [0.6 - spread, 0.6, 0.6 + spread], [0.03, 0.06, 0.06]
    each = zip(values, halves, strict=True)
    runs = {f"b{n}": run("mi", seed=n) | {"unlearning": part(*e, "headline")} for n, e in enumerate(each)}
    half = max(0.09 / 3, stats.t.ppf(0.975, 2) * stats.sem(values))
    assert Method(runs).interval("unlearning.headline") == pytest.approx((0.6 - half, 0.6 + half))


def test_what_was_measured_with_other_settings_is_not_compared():
    a, b = ({"unlearning": part(0.5, 0.1, "headline", settings={"ce_rise": rise})} for rise in (0.1, 0.3))
    probing = {"probing": part(0.9, 0.01, "accuracy_1", settings={})}
    (c,) = compare({"a": run() | a | probing, "b": run("mi") | b | probing})
    assert c.notes == ("measured with other settings than its baseline, so not compared: unlearning",)
    assert {d.figure.part for d in c.differences} == {"heldout", "probing"}
    (c,) = compare({"a": run() | a, "b": run("mi") | a})
    assert (c.notes, of(c, "unlearning.headline").difference) == ((), 0)
    one_seed = {f"b{n}": run("mi", seed=n) | part for n, part in enumerate((a, b))}
    assert "unlearning" in compare({"a": run() | a, **one_seed})[0].notes[0]


def test_baselines_that_change_places_without_a_group_give_no_paired_interval():
    runs = {"a": run(l0=39.9), "b": run(l0=40.1), "c": run("mi", 0.4, l0=40.0)}
    runs["a"]["heldout"]["groups"]["codes.l0"] = [40.1] * 10
    runs["b"]["heldout"]["groups"]["codes.l0"] = [40.1] * 10
    d = of(compare(runs)[0])
    assert d.interval[1] - d.interval[0] > 0.05  # as if independent


def test_a_copy_of_a_run_is_no_second_seed():
    found = methods({"a": run(seed=1), "copy": run(seed=1), "b": run(seed=2), "old": run()})
    assert [list(m.runs) for m in found] == [["a", "b"], ["copy"], ["old"]]


def test_other_architectures_and_widths_are_no_baseline():
    runs = {"a": run(), "b": run("mi", d_sae=32), "c": run("mi", architecture="topk"), "d": run("mi")}
    assert [c.status for c in compare(runs)] == ["no_baseline", "no_baseline", "ok"]
    assert [c.baseline for c in compare(runs, ["d"])] == [("d",)] * 3
    with pytest.raises(SleaveError, match="The baseline x is not among the runs: a, b, c, d"):
        compare(runs, ["x"])
    with pytest.raises(SleaveError, match="match"):
        compare(runs, match="l1")


def test_a_run_that_was_not_measured():
    runs = {"a": run(), "b": {"training": run("mi")["training"]}}
    assert compare(runs)[0].status == "not_measured"


@pytest.mark.parametrize("other", [{"activations": "layer 3"}, {"fingerprint": "layer 3"}])
def test_runs_on_other_activations_are_no_baseline(other):
    runs = {"a": run(activations="layer 8"), "c": run("mi", **{"activations": "layer 8"} | other)}
    (c,) = compare(runs)
    assert (c.status, c.baseline, c.differences) == ("no_baseline", (), ())
    assert "architecture, widths and activations" in c.notes[0]
    assert compare(runs, ["a"])[0].status == "ok"
    both = compare(
        {**runs, "d": run(**{"activations": "layer 8", "l0": 60.0} | other), "e": run("mi", activations="layer 8")}
    )
    assert [c.baseline for c in both] == [("d",), ("a",)]  # not one frontier of two layers


@pytest.mark.parametrize("match", ["l0", "fvu"])
def test_a_baseline_where_nothing_fires_is_left_out(match):
    dead = run(fvu=0.0, l0=0.0)
    (c,) = compare({**frontier(), "dead": dead, "b": run("mi", 0.4, l0=30.0)}, match=match)
    assert (c.status, len(c.baseline)) == ("ok", 2)
    assert "dead" not in c.baseline
    assert compare({"dead": dead, "b": run("mi")})[0].status == "no_baseline"


def test_every_figure_has_a_name_and_a_place_of_its_own():
    every = [f for figures in FIGURES.values() for f in figures]
    assert len({f.name for f in every}) == len({f.path for f in every}) == len(every)
