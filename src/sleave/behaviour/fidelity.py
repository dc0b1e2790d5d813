"""What the language model loses when it goes on from reconstructions instead of its own residual stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from sleave.autoencoder.model import SparseAutoencoder, inference
from sleave.base.progress import progress
from sleave.base.settings import Settings
from sleave.behaviour.results import Intervals, Result, figures_and_intervals
from sleave.codes.codes import as_codes
from sleave.language.contexts import Context, contexts, is_heldout, padded_keep
from sleave.language.corpora import read_corpora
from sleave.language.losses import POSITIONS, targets
from sleave.language.model import HookedModel
from sleave.language.settings import CorpusSettings, HarvestSettings
from sleave.language.whole import WholeModel

BATCH_TOKENS = 1024  # that the model reads at once, padding included
QUANTITIES = (
    "targets",
    "positions",
    "replaced",
    "active",
    *(f"ce_{name}" for name in ("clean", "spliced", "zero", "mean")),
    *(f"kl_{name}" for name in ("spliced", "zero")),
)


class FidelitySettings(Settings):
    """The language model with reconstructions in place of its residual stream."""

    documents: int = Field(default=64, ge=2)
    """The first context of so many held-out documents of the run's own text is read."""


@dataclass(frozen=True)
class Fidelity(Result):
    """Next-token losses (nats) with the residual stream as it is, reconstructed, or ablated.

    Cross-entropies are means over next tokens that are text, read at text; divergences are KL(clean || other), means
    over positions of text. `spliced` and `mean` replace the positions that the autoencoder reads; `zero` sets every
    position to zero, the first token's too, as SAELens has it.

    Attributes:
        documents: how many were read.
        tokens: positions of text.
        replaced: share of them that is replaced: the others have massive norms, which the harvest leaves out too.
        l0: features that fire at a replaced position.
        ce_loss_clean: of the model itself.
        ce_loss_spliced: with reconstructions.
        ce_loss_zero: with zeros.
        ce_loss_mean: with the mean of what is replaced.
        ce_loss_score: (zero - spliced) / (zero - clean): 1 if nothing is lost, 0 if it is no better than zeros.
        ce_loss_score_mean: (mean - spliced) / (mean - clean), which is stricter.
        kl_div_spliced: divergence with reconstructions.
        kl_div_zero: with zeros.
        kl_div_score: (zero - spliced) / zero.
        intervals: of each figure, 95%.
    """

    documents: int
    tokens: int
    replaced: float
    l0: float
    ce_loss_clean: float
    ce_loss_spliced: float
    ce_loss_zero: float
    ce_loss_mean: float
    ce_loss_score: float
    ce_loss_score_mean: float
    kl_div_spliced: float
    kl_div_zero: float
    kl_div_score: float
    intervals: Intervals


def heldout_contexts(
    corpora: Sequence[CorpusSettings], harvest: HarvestSettings, tokenizer: Any, documents: int
) -> list[Context]:
    """The first context of each of the first held-out documents of a harvest's text.

    Args:
        corpora: the text.
        harvest: how it was split and cut.
        tokenizer: the model's.
        documents: how many, if there are as many.

    Raises:
        SleaveError: the text is missing.
    """
    first: dict[int, Context] = {}
    heldout = (d for d in read_corpora(corpora, harvest.seed) if is_heldout(d, harvest.heldout_fraction, harvest.seed))
    for context in contexts(enumerate(heldout), tokenizer, harvest):
        if context.document not in first and len(first) == documents:
            break
        first.setdefault(context.document, context)
    return list(first.values())


@torch.no_grad()
def fidelity(
    sae: SparseAutoencoder,
    model: WholeModel,
    layer: int,
    texts: Sequence[Context],
    max_norm_ratio: float | None = None,
) -> Fidelity | Result:
    """Splice an autoencoder into a language model, and see what it says then.

    Args:
        sae: reads raw activations.
        model: the language model.
        layer: the block after which it reads them.
        texts: contexts of two documents at least.
        max_norm_ratio: positions of a norm above so many times the median stay as they are.

    Returns:
        the figures; or `no_text`, if fewer than two documents have two tokens of text one after the other.

    Reference: SAELens, `sae_lens.evals`, whose figures these are where no position is left out for its norm.
    """
    numbers = sorted({c.document for c in texts if any(a and b for a, b in zip(c.keep, c.keep[1:], strict=False))})
    if len(numbers) < 2:
        return Result("no_text", "Fewer than two held-out documents; harvest.heldout_fraction is 0, or text is short.")
    texts = [c for c in texts if c.document in numbers]
    batches = [[texts[i] for i in batch] for batch in HookedModel.batches(texts, BATCH_TOKENS)]
    streams = [model.residuals(batch, layer) for batch in batches]
    replaced = _within_norm(streams, batches, max_norm_ratio)
    rows = torch.cat([x[at] for x, at in zip(streams, replaced, strict=True)]).float()
    sums = torch.zeros(len(numbers), len(QUANTITIES), dtype=torch.float64)
    with progress("Splicing in", sum(c.num_kept for c in texts), "tokens") as advance:
        for batch, stream, at in zip(batches, streams, replaced, strict=True):
            x_hat, active = _reconstruct(sae, stream[at].float())
            given = {
                "clean": stream,
                "spliced": _with(stream, at, x_hat),
                "zero": torch.zeros_like(stream),
                "mean": _with(stream, at, rows.mean(dim=0)),
            }
            final = {name: model.final(x, layer) for name, x in given.items()}
            document = torch.tensor([numbers.index(c.document) for c in batch])[:, None].expand(at.shape)
            keep = padded_keep(batch)
            found = _losses(model, final, batch)
            found |= {"positions": torch.ones(int(keep.sum())), "replaced": at.cpu()[keep].float()}
            sums[:, QUANTITIES.index("active")].index_add_(0, document[at.cpu()], active.double().cpu())
            for name, values in found.items():
                sums[:, QUANTITIES.index(name)].index_add_(0, document[keep], values.double())
            advance(int(keep.sum()), "")
    figures, intervals = figures_and_intervals(sums, _figures)
    return Fidelity("ok", "", len(numbers), int(sums[:, 1].sum()), **figures, intervals=intervals)


def _within_norm(
    streams: Sequence[Tensor], batches: Sequence[Sequence[Context]], ratio: float | None
) -> list[Bool[Tensor, "contexts width"]]:
    """Which positions an autoencoder reads: text, and not of a massive norm."""
    text = [padded_keep(batch).to(x.device) for x, batch in zip(streams, batches, strict=True)]
    if ratio is None:
        return text
    norms = [x.float().norm(dim=2) for x in streams]
    limit = ratio * torch.cat([n[keep] for n, keep in zip(norms, text, strict=True)]).median()
    return [keep & (n <= limit) for n, keep in zip(norms, text, strict=True)]


def _reconstruct(sae: SparseAutoencoder, x: Float[Tensor, "rows d_in"]) -> tuple[Tensor, Tensor]:
    """Reconstructions, and how many features fire on each row."""
    with inference(sae):
        acts = as_codes(sae.codes(x.to(sae.W_dec.device)))
        return sae.decode(acts), acts.start.diff()


def _with(stream: Tensor, at: Tensor, rows: Tensor) -> Tensor:
    other = stream.clone()
    other[at] = rows.to(stream)
    return other


def _losses(
    model: WholeModel, final: Mapping[str, Float[Tensor, "contexts width d_in"]], batch: Sequence[Context]
) -> dict[str, Float[Tensor, " positions"]]:
    """At every position of text, cross-entropies (0 where no text follows) and divergences from the clean model."""
    keep = padded_keep(batch)
    has_target, following = (t[keep].to(model.device) for t in targets(batch))
    at = {name: x[keep.to(x.device)] for name, x in final.items()}
    parts: dict[str, list[Tensor]] = {name: [] for name in QUANTITIES if name.startswith(("ce_", "kl_"))}
    for start in range(0, len(following), POSITIONS):
        some = slice(start, start + POSITIONS)
        token, counts = following[some, None], has_target[some]
        clean = model.logits(at["clean"][some]).float().log_softmax(dim=1)
        p = clean.exp()
        entropy = -_dot(p, clean)
        parts["ce_clean"].append(-clean.gather(1, token)[:, 0] * counts)
        for name in ("spliced", "zero", "mean"):
            logits = model.logits(at[name][some]).float()
            total = logits.logsumexp(dim=1)
            parts[f"ce_{name}"].append((total - logits.gather(1, token)[:, 0]) * counts)
            if name != "mean":
                parts[f"kl_{name}"].append(total - _dot(p, logits) - entropy)
    return {"targets": has_target.float().cpu(), **{name: torch.cat(values).cpu() for name, values in parts.items()}}


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The product of each two rows, without a matrix of products in between."""
    return (a[:, None] @ b[:, :, None])[:, 0, 0]


def _figures(sums: Tensor) -> dict[str, Tensor]:
    of = dict(zip(QUANTITIES, sums.unbind(dim=-1), strict=True))
    ce = {name: of[f"ce_{name}"] / of["targets"] for name in ("clean", "spliced", "zero", "mean")}
    kl = {name: of[f"kl_{name}"] / of["positions"] for name in ("spliced", "zero")}
    return {
        "replaced": of["replaced"] / of["positions"],
        "l0": of["active"] / of["replaced"],
        **{f"ce_loss_{name}": value for name, value in ce.items()},
        "ce_loss_score": (ce["zero"] - ce["spliced"]) / (ce["zero"] - ce["clean"]),
        "ce_loss_score_mean": (ce["mean"] - ce["spliced"]) / (ce["mean"] - ce["clean"]),
        **{f"kl_div_{name}": value for name, value in kl.items()},
        "kl_div_score": (kl["zero"] - kl["spliced"]) / kl["zero"],
    }
