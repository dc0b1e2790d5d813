"""Cross-entropy of next tokens, a few positions at a time: logits of a large vocabulary take much memory and time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sleave.language.contexts import Context, padded_ids, padded_keep
from sleave.language.whole import WholeModel

POSITIONS = 256  # at once: 134 MB of logits of 16 bits for a vocabulary of 262,144
IN_CACHE = 4  # rows of logits that are turned into float32 at once: 4 MB


@torch.no_grad()
def next_token_losses(
    model: WholeModel, finals: Sequence[Float[Tensor, "_ d_in"]], contexts: Sequence[Context]
) -> list[Float[Tensor, " targets"]]:
    """The cross-entropy (nats) of each next token that is text, read at a token that is text.

    What the model says after a special token (such as the first) is left out: no autoencoder is put in there.

    Args:
        model: the language model.
        finals: (length, d_in) what its head reads of each context, as `WholeModel.final` gives it.
        contexts: of which they are.

    Returns:
        For each context its losses in order, float32, on the CPU.
    """
    has_target, following = targets(contexts)
    at = torch.cat([f[h[: len(f)].to(f.device)] for f, h in zip(finals, has_target, strict=True)])
    token = following[has_target]
    parts = zip(at.split(POSITIONS), token.split(POSITIONS), strict=True)
    losses = torch.cat([cross_entropy(model.logits(x), y).cpu() for x, y in parts]) if len(at) else torch.empty(0)
    return list(losses.split(has_target.sum(dim=1).tolist()))


def targets(contexts: Sequence[Context]) -> tuple[Bool[Tensor, "contexts width"], Int[Tensor, "contexts width"]]:
    """Whether a position and the one after it both hold text, and which token comes after it."""
    keep, ids = padded_keep(contexts), padded_ids(contexts)
    following = keep.roll(-1, dims=1)
    following[:, -1] = False
    return keep & following, ids.roll(-1, dims=1)


def cross_entropy(
    logits: Float[Tensor, "positions vocabulary"], token: Int[Tensor, " positions"]
) -> Float[Tensor, " positions"]:
    """-log p(token), in nats, in float32 whatever the logits are in."""
    if logits.device.type == "cpu":
        total = torch.cat([some.float().logsumexp(dim=1) for some in logits.split(IN_CACHE)])
    else:
        total = logits.float().logsumexp(dim=1)
    return total - logits.gather(1, token.to(logits.device)[:, None])[:, 0].float()
