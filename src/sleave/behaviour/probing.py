"""What few features tell of a text's topic: k-sparse probes, beside a probe that reads the activations themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from sleave.autoencoder.model import SparseAutoencoder, inference
from sleave.base.progress import progress
from sleave.base.settings import Settings
from sleave.behaviour.probes import NOT_INSTALLED, fit_probe, installed, largest, separation
from sleave.behaviour.results import Intervals, Result, figures_and_intervals
from sleave.language.contexts import padded_keep
from sleave.language.model import HookedModel
from sleave.language.passages import Passage
from sleave.language.whole import WholeModel

BATCH_TOKENS = 1024  # that the model reads at once, padding included
FEATURES = (1, 2, 5)  # that a probe reads
DENSE = "dense"
CHANCE = 0.5
LEAST = 20  # passages of a topic, in either half
DENSE_REGULARISATION = 10.0  # there are about as many columns as passages


class ProbingSettings(Settings):
    """Probes of a passage's topic that read 1, 2 or 5 features."""

    passages_per_topic: int = Field(default=200, ge=2 * LEAST)
    """So many passages of each topic, if there are as many of each; probes are fitted on half of them and tested on
    the other half."""


@dataclass(frozen=True)
class Probing(Result):
    """Balanced accuracies (mean of both classes' recall) of one topic against all others, on passages not fitted on.

    Attributes:
        topics: how many.
        passages: of each topic; half of them are tested on.
        chance: what guessing would give.
        accuracy_1: with the one feature whose mean over a passage differs most, mean over topics; and so
        accuracy_2: with two features,
        accuracy_5: with five.
        accuracy_dense: with the activations themselves, averaged over the passage.
        by_topic: the same figures for each topic, and the features that were read, best first.
        intervals: of the means over topics, 95%, over other passages to test on.
    """

    topics: int
    passages: int
    chance: float
    accuracy_1: float
    accuracy_2: float
    accuracy_5: float
    accuracy_dense: float
    by_topic: dict[str, dict[str, float | list[int]]]
    intervals: Intervals


def probing(
    sae: SparseAutoencoder, model: WholeModel, layer: int, texts: Sequence[Passage], settings: ProbingSettings
) -> Probing | Result:
    """Fit probes of each topic on codes and on activations, averaged over each passage.

    Args:
        sae: reads raw activations.
        model: the language model.
        layer: the block after which it reads them.
        texts: passages that training never saw, in random order.
        settings: how many.

    Returns:
        the figures; or `no_topics` (fewer than two), `too_few_passages` or `not_installed`.

    Reference: Gurnee et al. 2023, arXiv 2305.01610 (k-sparse probing); Karvonen et al. 2025, arXiv 2503.09532
        (SAEBench), which ranks features by the difference of means in the codes' own units.
    """
    if not installed():
        return NOT_INSTALLED
    by_topic: dict[str, list[Passage]] = {}
    for passage in texts:
        if passage.topic is not None:
            by_topic.setdefault(passage.topic, []).append(passage)
    if len(by_topic) < 2:
        return Result("no_topics", f"The passages have {len(by_topic)} topics; give labelled documents of two or more.")
    per_topic = min(settings.passages_per_topic, *map(len, by_topic.values())) // 2 * 2
    if per_topic < 2 * LEAST:
        fewest = min(by_topic, key=lambda topic: len(by_topic[topic]))
        return Result(
            "too_few_passages", f"{len(by_topic[fewest])} new passages of `{fewest}`; {2 * LEAST} are needed."
        )
    names = sorted(by_topic)
    x, codes = pooled(sae, model, layer, [p for name in names for p in by_topic[name][:per_topic]])
    topic = torch.arange(len(names)).repeat_interleave(per_topic)
    train = (torch.arange(per_topic) < per_topic // 2).repeat(len(names))
    columns, sums, features = [f"accuracy_{k}" for k in (*FEATURES, DENSE)], [], []
    for number in range(len(names)):
        yes = topic == number
        ranked = largest(separation(codes[train], yes[train]).abs(), max(FEATURES))
        given = [(codes[:, ranked[:k]], 1.0) for k in FEATURES] + [(x, DENSE_REGULARISATION)]
        said = [fit_probe(z[train], yes[train], strength).scores(z[~train]) > 0 for z, strength in given]
        sums.append(_hits(torch.stack(said, dim=1), yes[~train]))
        features.append(ranked.tolist())
    found, intervals = figures_and_intervals(
        torch.stack(sums, dim=1).flatten(1),
        lambda s: _means(s.unflatten(-1, (len(names), len(columns), 2, 2)), columns),
    )
    accuracies = [_accuracy(s.sum(dim=0).unflatten(0, (len(columns), 2, 2))).tolist() for s in sums]
    details = {
        name: dict(zip(columns, values, strict=True)) | {"features": chosen}
        for name, values, chosen in zip(names, accuracies, features, strict=True)
    }
    return Probing("ok", "", len(names), per_topic, CHANCE, **found, by_topic=details, intervals=intervals)


@torch.no_grad()
def pooled(
    sae: SparseAutoencoder, model: WholeModel, layer: int, texts: Sequence[Passage]
) -> tuple[Float[Tensor, "passages d_in"], Float[Tensor, "passages d_sae"]]:
    """Activations and codes, each averaged over a passage's text.

    Args:
        sae: reads raw activations.
        model: the language model.
        layer: the block after which it reads them.
        texts: the passages.
    """
    sequences = [p.context for p in texts]
    x, codes = torch.zeros(len(texts), sae.d_in), torch.zeros(len(texts), sae.d_sae)
    with progress("Reading passages", len(texts), "passages") as advance, inference(sae):
        for batch in HookedModel.batches(sequences, BATCH_TOKENS):
            some = [sequences[i] for i in batch]
            stream = model.residuals(some, layer).float().to(sae.W_dec.device)
            for i, row, keep in zip(batch, stream, padded_keep(some), strict=True):
                text = row[keep.to(row.device)]
                x[i], codes[i] = text.mean(dim=0).cpu(), sae.encode(text).mean(dim=0).cpu()
            advance(len(batch), "")
    return x, codes


def _hits(said: Tensor, yes: Tensor) -> Float[Tensor, "passages counts"]:
    """Of each passage, for each probe: whether it is (no, yes), and whether that was said of it (no, yes)."""
    truth = torch.stack([~yes, yes], dim=1)[:, None].expand(-1, said.shape[1], -1)
    right = truth & (said == yes[:, None])[..., None]
    return torch.stack([truth, right], dim=2).double().flatten(1)


def _accuracy(counts: Float[Tensor, "*rest two classes"]) -> Float[Tensor, "*rest"]:
    truth, right = counts.unbind(dim=-2)
    return (right / truth).mean(dim=-1)


def _means(counts: Tensor, columns: Sequence[str]) -> dict[str, Tensor]:
    """Mean over topics, for each probe."""
    return dict(zip(columns, _accuracy(counts).mean(dim=-2).unbind(dim=-1), strict=True))
