"""Topics as something to be forgotten: probes tell which passages the model knows the topic of."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sleave.base.errors import SleaveError
from sleave.base.progress import progress
from sleave.behaviour.probes import fit_probes
from sleave.language.passages import Passage
from sleave.language.whole import WholeModel
from sleave.unlearning.documents import Documents
from sleave.unlearning.probes import probe_judge
from sleave.unlearning.questions import Questions
from sleave.unlearning.settings import UnlearningSettings
from sleave.unlearning.task import FEW


class TooFewPassages(SleaveError):
    """There are not enough labelled passages to fit probes to and to ask about."""


def read_topics(
    model: WholeModel,
    passages: Sequence[Passage],
    layer: int,
    settings: UnlearningSettings,
    max_norm_ratio: float | None = None,
) -> Questions:
    """Read passages, fit the probes, and find out which of the other passages all of them know.

    Raises:
        TooFewPassages: fewer than two topics have enough passages.
    """
    by_topic: dict[str, list[Passage]] = {}
    for passage in passages:
        if passage.topic is not None:
            by_topic.setdefault(passage.topic, []).append(passage)
    most = settings.train + 4 * settings.documents  # twice as many as are wanted, in case half of them is not known
    least = settings.train + 2 * FEW
    chosen = {name: found[:most] for name, found in sorted(by_topic.items()) if len(found) >= least}
    if len(chosen) < 2:
        raise TooFewPassages(
            f"Unlearning needs two topics at least with {least} passages each; there are "
            f"{ {name: len(found) for name, found in by_topic.items()} }. Give other documents as "
            "evaluation.passages.corpus, or lower evaluation.unlearning.train."
        )
    topic = torch.tensor([t for t, found in enumerate(chosen.values()) for _ in found])
    contexts = [p.context for found in chosen.values() for p in found]
    with progress("Reading passages", len(contexts), "passages") as advance:
        documents = Documents.read(model, contexts, layer, max_norm_ratio, lambda done: advance(done, ""))
    own = [(topic == t).nonzero().flatten().tolist() for t in range(len(chosen))]
    train = tuple(tuple(o[: settings.train]) for o in own)
    pooled = documents.pooled(range(len(contexts)), documents.finals(range(len(contexts))))
    fitted = [d for t in train for d in t]
    probes = fit_probes(pooled[fitted], topic[fitted], settings.probes, settings.seed)
    right = (probes.topics(pooled) == topic).all(dim=0)
    known = tuple(tuple(d for d in o[settings.train :] if right[d]) for o in own)
    judge = probe_judge(documents, probes, topic.tolist())
    return Questions(documents, tuple(chosen), topic, train, known, judge, pooled)
