"""Probes as judges of whether the model still says what a document is about."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sleave.behaviour.probes import Probes
from sleave.unlearning.documents import Documents, Judge


def probe_judge(documents: Documents, probes: Probes, topic: Sequence[int]) -> Judge:
    """Says of each document what share of the probes get its topic right."""

    def judge(batch: Sequence[int], finals: Sequence[Tensor]) -> Tensor:
        pooled = torch.stack([documents.mean_of_text(d, final) for d, final in zip(batch, finals, strict=True)])
        wanted = torch.tensor([topic[d] for d in batch])
        return (probes.topics(pooled.cpu()) == wanted).float().mean(dim=0)

    return judge
