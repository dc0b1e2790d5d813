"""What is known of any two features: from their codes, and from their directions."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from sleave.autoencoder.model import SparseAutoencoder
from sleave.codes.codes import Codes
from sleave.dependence.coactivation import dots
from sleave.dependence.pairs import argsort_unique
from sleave.dependence.scores import PairScores
from sleave.evaluation.limits import OFTEN, SELDOM

ENTRIES = 1 << 22  # that are looked up at a time


class Evidence:
    """Figures of pairs (i, j), i < j, given as two tensors. Memory grows with what fires together, not with d_sae^2.

    Attributes:
        codes: of all audited rows.
        scores: the mutual information of all pairs, in nats.
        decoder: (d_sae, d_in) unit decoder directions (0 where a row is 0).
        standardised: (d_sae, d_in) the same with each dimension in units of its deviation over the rows. In a residual
            stream deviations differ hundredfold, so that in raw units a few dimensions decide how alike directions are.
        encoder: (d_sae, d_in) the same as `decoder`, of the encoder.
        b_dec: (d_in,) the decoder's bias.
    """

    def __init__(
        self, sae: SparseAutoencoder, codes: Codes, scores: PairScores, deviation: Float64[Tensor, " d_in"]
    ) -> None:
        self.codes = codes
        self.scores = scores
        self.decoder = torch.nn.functional.normalize(sae.W_dec.detach().float(), dim=1)
        per_deviation = torch.where(deviation > 0, 1 / deviation, 0).float()  # what never varies tells nothing
        self.standardised = torch.nn.functional.normalize(sae.W_dec.detach().float() * per_deviation, dim=1)
        self.encoder = torch.nn.functional.normalize(sae.W_enc.detach().float().t(), dim=1)
        self.b_dec = sae.b_dec.detach().float()
        key = scores.i * scores.d_sae + scores.j
        self._order = argsort_unique(key)
        self._key = key[self._order]
        start, order = codes.by_feature
        self._start = start
        self._entry = codes.feature[order] * codes.rows + codes.row[order]  # ascends
        self._value = codes.value[order].double()
        self._moments = {centred: codes.moments(centred) for centred in (False, True)}

    def together(self, i: Int64[Tensor, " n"], j: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """On how many rows both fire."""
        place, listed = self._listed(i, j)
        return torch.where(listed, self.scores.together[place], 0) if len(self._key) else torch.zeros_like(i)

    def seldom(self, i: Int64[Tensor, " n"], j: Int64[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Whether both fire often enough, and together on at most half of the rows that chance alone would have."""
        often = torch.minimum(self.codes.fired[i], self.codes.fired[j]) >= OFTEN
        return often & (self.together(i, j) <= SELDOM * self.expected(i, j))

    def expected(self, i: Int64[Tensor, " n"], j: Int64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """On how many rows both would fire, on average, were they independent."""
        return self.codes.fired[i].double() * self.codes.fired[j].double() / self.codes.rows

    def deviations(self, i: Int64[Tensor, " n"], j: Int64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """By how many standard deviations (of the hypergeometric distribution) `together` is below `expected`."""
        expected, rows = self.expected(i, j), self.codes.rows
        silent = (1 - self.codes.fired[i].double() / rows) * (1 - self.codes.fired[j].double() / rows)
        variance = expected * silent * rows / max(1, rows - 1)
        return torch.where(variance > 0, (expected - self.together(i, j)) / variance.sqrt(), 0)

    def information(self, i: Int64[Tensor, " n"], j: Int64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """Mutual information of the codes, in nats, less what chance alone would give."""
        group = self.scores.group
        apart = self.scores.apart[group[i], group[j]]
        place, listed = self._listed(i, j)
        return torch.where(listed, self.scores.score[place], apart) if len(self._key) else apart

    def pearson(self, i: Int64[Tensor, " n"], j: Int64[Tensor, " n"]) -> Float64[Tensor, " n"]:
        """Pearson's correlation of the codes; 0 for a feature that is constant."""
        return self.correlation(i, j, self.dots(i, j), centred=True)

    def correlations(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(i, j), on how many rows both fire, and Pearson's correlation, for every pair that fires together."""
        i, j, together, dot = dots(self.codes.with_value(self.codes.value.double()))
        return i, j, together, self.correlation(i, j, dot, centred=True)

    def correlation(self, i: Tensor, j: Tensor, dots: Tensor, centred: bool) -> Float64[Tensor, " n"]:
        """Pearson's correlation (`centred`) or the cosine of the codes, from `dots`; 0 for a feature without a norm."""
        mean, inverse = self._moments[centred]
        return (dots - self.codes.rows * mean[i] * mean[j]) * inverse[i] * inverse[j]

    def _listed(self, i: Tensor, j: Tensor) -> tuple[Tensor, Tensor]:
        """Where each pair is in the lists of `scores`, and whether it is there at all."""
        key = i * self.scores.d_sae + j
        place = torch.searchsorted(self._key, key).clamp_max(max(0, len(self._key) - 1))
        return (self._order[place], self._key[place] == key) if len(self._key) else (place, place < 0)

    def dots(self, i: Tensor, j: Tensor) -> Float64[Tensor, " n"]:
        """f_i . f_j: the entries of the feature that fires less are looked up among those of the other."""
        fired, dots = self.codes.fired, self._value.new_zeros(len(i))
        rarer = torch.where(fired[i] <= fired[j], i, j)
        other = i + j - rarer
        upto = fired[rarer].cumsum(0)
        first = 0
        while first < len(i):
            before = int(upto[first - 1]) if first else 0
            last = max(first + 1, int(torch.searchsorted(upto, before + ENTRIES, right=True)))
            part = slice(first, last)
            pair, entry = _expanded(self._start[rarer[part]], fired[rarer[part]])
            wanted = other[part][pair] * self.codes.rows + self._entry[entry] % self.codes.rows
            place = torch.searchsorted(self._entry, wanted).clamp_max(max(0, len(self._entry) - 1))
            hit = self._entry[place] == wanted
            dots[part] = dots[part].index_add(0, pair[hit], (self._value[entry] * self._value[place])[hit])
            first = last
        return dots


def _expanded(start: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """For runs start[p] .. start[p] + count[p] - 1, all their numbers, and which run each is of."""
    run = torch.repeat_interleave(torch.arange(len(count)), count)
    return run, torch.arange(len(run)) + (start - (count.cumsum(0) - count))[run]
