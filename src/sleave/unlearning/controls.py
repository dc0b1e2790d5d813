"""What a score is to be compared with: features that have nothing to do with the topic, and one that has all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sleave.codes.codes import Codes, row_starts
from sleave.unlearning.dictionary import Dictionary, rates
from sleave.unlearning.documents import Documents
from sleave.unlearning.questions import Questions
from sleave.unlearning.search import Order
from sleave.unlearning.task import Task

NEAR = 20  # features on either side by firing rate, among which a random partner is drawn
FIRES = 0.1  # share of the text on which a topic's direction counts as present
FEATURES = 256  # whose projections are computed at once


def matched_random(order: Order, dictionary: Dictionary, seed: int, most: int) -> Order:
    """The same order with each of its first features replaced by a random other one that fires about as often.

    Args:
        order: the order.
        dictionary: of which features it is.
        seed: of the draw.
        most: so many are replaced, and the rest is left out; so is a feature that has no other near it.
    """
    by_rate = dictionary.rates.argsort(stable=True)
    place = torch.empty_like(by_rate).scatter_(0, by_rate, torch.arange(len(by_rate)))

    def instead(tau: float) -> Int64[Tensor, " features"]:
        generator = torch.Generator().manual_seed(seed)
        chosen = order(tau)[:most].tolist()
        partners: list[int] = []
        for feature in chosen:
            near = by_rate[max(0, int(place[feature]) - NEAR) : int(place[feature]) + NEAR + 1].tolist()
            if free := [f for f in near if f not in partners and f not in chosen]:
                partners.append(free[int(torch.randint(len(free), (1,), generator=generator))])
        return torch.tensor(partners, dtype=torch.int64)

    return instead


def random_dictionary(dictionary: Dictionary, questions: Questions, scale: Tensor, seed: int) -> Dictionary:
    """Random directions in the units of training, each firing as often as a feature of the dictionary.

    A feature's code is the projection on its direction, less what makes it fire so often on the training documents.

    Args:
        dictionary: the one whose firing rates are taken over.
        questions: the documents.
        scale: (d_in,) from raw activations to the units of training.
        seed: of the directions.
    """
    documents, generator = questions.documents, torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize(torch.randn(dictionary.directions.shape, generator=generator), dim=1)
    train = documents.rows(questions.all_train)
    x = documents.residual.float() * scale
    x -= x[train].mean(0)
    fires = (dictionary.rates * train.sum()).round().long()
    parts = []
    for first in range(0, len(unit), FEATURES):
        projection = x @ unit[first : first + FEATURES].t()
        ranked = projection[train].sort(dim=0, descending=True).values
        wanted = fires[first : first + FEATURES]
        above = projection - ranked.gather(0, wanted.clamp_max(len(ranked) - 1)[None])
        above *= documents.text[:, None] & (wanted > 0)
        row, feature = (above > 0).nonzero(as_tuple=True)
        parts.append((row, feature + first, above[row, feature]))
    codes = _codes(parts, len(x), len(unit))
    return Dictionary(codes, unit / scale, torch.ones(len(unit)), dictionary.norm, rates(codes, train))


def _codes(parts: Sequence[tuple[Tensor, Tensor, Tensor]], rows: int, d_sae: int) -> Codes:
    """Codes from (row, feature, value) in any order."""
    row, feature, value = (torch.cat(column) for column in zip(*parts, strict=True))
    order = (row * d_sae + feature).argsort()
    return Codes(d_sae, row_starts(row[order], rows), feature[order], value[order])


def topic_direction(task: Task, scale: Tensor, norm: float) -> Dictionary:
    """The one direction that tells a topic from the others at the hooked layer, as a dictionary of one feature.

    Linear discriminant of the means of the training documents' text; it fires where the projection is among their
    largest 10%.

    Args:
        task: the topic.
        scale: (d_in,) from raw activations to the units of training.
        norm: the median norm of the activations in those units.
    """
    documents = task.questions.documents
    sides = [torch.stack([_mean(documents, d) for d in side]) * scale for side in task.train]
    within = torch.cat([s - s.mean(0) for s in sides])
    covariance = within.t() @ within / len(within)
    ridge = torch.eye(len(covariance)) * 0.1 * covariance.diagonal().mean()
    apart = torch.linalg.solve(covariance + ridge, sides[0].mean(0) - sides[1].mean(0))
    unit = torch.nn.functional.normalize(apart, dim=0)
    train = documents.rows([d for side in task.train for d in side])
    projection = (documents.residual.float() * scale) @ unit
    above = (projection - projection[train].quantile(1 - FIRES)) * documents.text
    row = (above > 0).nonzero().flatten()
    codes = _codes([(row, torch.zeros_like(row), above[row])], len(above), 1)
    return Dictionary(codes, (unit / scale)[None], torch.ones(1), norm, rates(codes, train))


def _mean(documents: Documents, d: int) -> Float[Tensor, " d_in"]:
    inside = slice(int(documents.start[d]), int(documents.start[d + 1]))
    return documents.residual[inside][documents.text[inside]].float().mean(0)


def only(feature: int = 0) -> Order:
    """The order of a dictionary of one feature."""
    return lambda tau: torch.tensor([feature])
