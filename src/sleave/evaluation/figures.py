"""The figures that a table shows: where each is in results.json, how it is written, which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Better = Literal["lower", "higher", "neither"]
L0, FVU = "heldout.codes.l0", "heldout.scaled.fvu"


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        name: what a table calls it.
        path: where it is in results.json: the part, and its place in there.
        style: how it is written: a format, or `GB` for bytes.
        better: which way is better; `neither` where that is not for the figure to say.
    """

    name: str
    path: str
    style: str = ""
    better: Better = "neither"

    @property
    def part(self) -> str:
        """The part of results.json that it is in."""
        return self.path.partition(".")[0]

    def written(self, value: object) -> str:
        """The value as text."""
        return f"{float(str(value)) / 1e9:.2f}" if self.style == "GB" else format(value, self.style)


FIGURES: Mapping[str, tuple[Figure, ...]] = MappingProxyType(
    {
        "run": (
            Figure("architecture", "training.architecture"),
            Figure("constraint", "training.constraint"),
            Figure("held-out rows", "heldout.rows", ",.0f"),
        ),
        "reconstruction": (
            Figure("MSE", "heldout.scaled.mse", ".1f", "lower"),
            Figure("FVU", FVU, ".4f", "lower"),
            Figure("FVU, raw", "heldout.raw.fvu", ".4f", "lower"),
            Figure("cosine of x and x_hat", "heldout.scaled.cosine", ".4f", "higher"),
            Figure("|x_hat| / |x|", "heldout.scaled.norm_ratio", ".3f"),
        ),
        "sparsity and use": (
            Figure("L0", L0, ".1f"),
            Figure("L1", "heldout.codes.l1", ".1f"),
            Figure("dead features", "heldout.codes.dead", ",.0f", "lower"),
            Figure("dense features", "heldout.codes.dense", ",.0f"),
        ),
        "entanglement": (
            Figure("99.9th percentile of |C|", "heldout.correlation.p999_cosine", ".4f", "lower"),
            Figure("99.99th percentile of |C|", "heldout.correlation.p9999_cosine", ".4f", "lower"),
            Figure("99.9th pct. of |C|, above chance", "heldout.correlation.excess_p999_cosine", ".4f", "lower"),
            Figure("mean |C|", "heldout.correlation.mean_cosine", ".5f", "lower"),
            Figure("99.9th percentile of |r|", "heldout.correlation.p999_pearson", ".4f", "lower"),
            Figure("mean |r|, above chance", "heldout.correlation.excess_mean_pearson", ".5f", "lower"),
            Figure("99.9th percentile of I", "heldout.information.p999", ".5f", "lower"),
            Figure("mean I", "heldout.information.mean", ".6f", "lower"),
            Figure("pairs, activity I > 0.01", "heldout.information.activity_noticeable", ".5f", "lower"),
            Figure("pairs, activity I > 10%", "heldout.information.activity_redundant", ".5f", "lower"),
            Figure("features in T", "heldout.top_pairs.unique_features", ",.0f"),
            Figure("stability of T", "heldout.top_pairs.stability", ".3f"),
            Figure("nearest decoder cosine", "heldout.decoder.mean_nearest", ".3f"),
            Figure("near-duplicates", "heldout.decoder.near_duplicates", ",.0f", "lower"),
        ),
        "language model": (
            Figure("CE loss score", "fidelity.ce_loss_score", ".4f", "higher"),
            Figure("CE loss score, against the mean", "fidelity.ce_loss_score_mean", ".4f", "higher"),
            Figure("KL divergence score", "fidelity.kl_div_score", ".4f", "higher"),
        ),
        "probing": (
            Figure("probe of 1 feature", "probing.accuracy_1", ".3f", "higher"),
            Figure("probe of 5 features", "probing.accuracy_5", ".3f", "higher"),
            Figure("absorption", "absorption.mean", ".3f", "lower"),
        ),
        "ground truth": (
            Figure("MCC, synthetic", "ground_truth.mcc", ".3f", "higher"),
            Figure("uniqueness, synthetic", "ground_truth.uniqueness", ".3f", "higher"),
            Figure("F1, synthetic", "ground_truth.f1", ".3f", "higher"),
        ),
        "unlearning": (
            Figure("unlearning", "unlearning.headline", ".3f", "higher"),
            Figure("unlearning, CE not limited", "unlearning.published_form", ".3f"),
            Figure("rise of CE then, nats", "unlearning.published_ce_rise", ".3f"),
            Figure("unlearning, best random control", "unlearning.random", ".3f"),
            Figure("topics within limits", "unlearning.topics_ok", ",.0f"),
        ),
        "cost": (
            Figure("seconds/step", "training.seconds_per_step", ".3f"),
            Figure("time waiting for rows", "training.waiting_share", ".1%"),
            Figure("peak memory, GB", "training.peak_memory_bytes", "GB"),
        ),
    }
)
