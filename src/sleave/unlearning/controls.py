"""What a score is to be compared with: features that have nothing to do with the topic, and one that has all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sleave.codes.codes import Codes, as_codes
from sleave.unlearning.dictionary import Dictionary, on_all_positions
from sleave.unlearning.documents import Documents
from sleave.unlearning.search import Order

ALIKE = 20  # features of like firing rate, among which a random partner is drawn
QUANTILE_ROWS = 8192  # tell a quantile well enough
FIRES = 0.1  # share of the text on which the probe's direction counts as present


def matched_random(order: Order, dictionary: Dictionary, seed: int) -> Order:
    """The same order with each feature replaced by a random other one that fires about as often."""
    by_rate = dictionary.rates.argsort(stable=True)
    place = torch.empty_like(by_rate).scatter_(0, by_rate, torch.arange(len(by_rate)))

    def instead(tau: float) -> Int64[Tensor, " features"]:
        taken = set[int]()
        generator = torch.Generator().manual_seed(seed)
        chosen = order(tau)[:ALIKE]
        for feature in chosen.tolist():
            near = by_rate[max(0, int(place[feature]) - ALIKE) : int(place[feature]) + ALIKE + 1]
            free = [f for f in near.tolist() if f not in taken and f not in chosen]
            taken.add(free[int(torch.randint(len(free), (1,), generator=generator))] if free else feature)
        return torch.tensor(list(taken), dtype=torch.int64)

    return instead


def random_dictionary(dictionary: Dictionary, documents: Documents, scale: Tensor, seed: int) -> Dictionary:
    """Random directions in the units of training, each firing on as many positions as a feature of the dictionary.

    A feature's code is the projection on its direction, less the quantile that makes it fire so often.

    Args:
        dictionary: the one whose firing rates are taken over.
        documents: the documents.
        scale: (d_in,) from raw activations to the units of training.
        seed: of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize(torch.randn(dictionary.directions.shape, generator=generator), dim=1)
    rows = documents.text.nonzero().flatten()
    x = documents.residual[rows].float() * scale
    x -= x.mean(0)
    parts = []
    step = max(1, len(x) // QUANTILE_ROWS)
    some = x[::step]
    for block, fired in zip(unit.split(256), dictionary.codes.fired.split(256), strict=True):
        projection = x @ block.t()
        ranked = (some @ block.t()).sort(dim=0, descending=True).values
        least = ranked.gather(0, (fired // step).clamp_max(len(some) - 1)[None])[0]
        parts.append(torch.relu(projection - least) * (fired > 0))
    codes = on_all_positions(as_codes(torch.cat(parts, dim=1)), rows, len(documents.text))
    return Dictionary(codes, unit / scale, torch.ones(len(unit)), dictionary.norm)


def probe_direction(
    documents: Documents, forget: Sequence[int], retain: Sequence[int], scale: Tensor, norm: float
) -> Dictionary:
    """The one direction that tells two sides apart at the hooked layer, as a dictionary of one feature.

    Linear discriminant of the means of the documents' text; it fires where the projection is among the largest 10%.

    Args:
        documents: the documents.
        forget, retain: of which the two sides are.
        scale: (d_in,) from raw activations to the units of training.
        norm: the median norm of the activations in those units.
    """
    sides = [torch.stack([_mean(documents, d) for d in side]) * scale for side in (forget, retain)]
    within = torch.cat([s - s.mean(0) for s in sides])
    covariance = within.t() @ within / len(within)
    ridge = torch.eye(len(covariance)) * 0.1 * covariance.diagonal().mean()
    unit = torch.nn.functional.normalize(
        torch.linalg.solve(covariance + ridge, sides[0].mean(0) - sides[1].mean(0)), dim=0
    )
    rows = documents.text.nonzero().flatten()
    projection = (documents.residual[rows].float() * scale) @ unit
    projection -= projection.quantile(1 - FIRES)
    fires = projection > 0
    start = torch.cat([torch.zeros(1, dtype=torch.int64), fires.long().cumsum(0)])
    codes = Codes(1, start, torch.zeros(int(fires.sum()), dtype=torch.int64), projection[fires])
    return Dictionary(on_all_positions(codes, rows, len(documents.text)), (unit / scale)[None], torch.ones(1), norm)


def _mean(documents: Documents, d: int) -> Float[Tensor, " d_in"]:
    inside = slice(int(documents.start[d]), int(documents.start[d + 1]))
    return documents.residual[inside][documents.text[inside]].float().mean(0)


def only(feature: int = 0) -> Order:
    """The order of a dictionary of one feature."""
    return lambda tau: torch.tensor([feature])
