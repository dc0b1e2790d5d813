"""Near-duplicates: two features that say and do the same.

They *do* the same if they add the same direction to the reconstruction: the cosine of their decoder directions is 0.8
at least, sign included. They *say* the same if either of two things shows it:

* their codes: they fire together on 10 rows at least, and Pearson's correlation of the codes over all rows is 0.5 at
  least. A correlation does not change when a copy is scaled (s times the code, 1/s times the direction), and it is
  ruled by the rows on which the features fire strongly. Of two copies in a TopK autoencoder, often only one gets the
  last place on a row, where both are weak: that costs less of the correlation than of the overlap of their firing. It
  counts rows where one fires alone, so two features that exclude each other never pass.
* their encoders: the cosine of the encoder directions is 0.8 at least. So copies are found that fire on too few rows
  (or on none) for codes to show anything; and copies turned a little, whose codes may differ widely where the
  activations vary much along the direction in which they were turned. Biases and thresholds do not count: of two copies
  with another threshold, one fires on the stronger part of the other's rows. Features that exclude each other, 3
  standard deviations below chance, do not say the same, whatever their encoders.

In trained autoencoders the two are far from agreeing: pairs with equal decoders and a correlation of 0.9 have encoder
cosines from 0.5 up. A pair with like directions and neither is not a near-duplicate; if it excludes each other it is a
suspect of splitting (auditing/suspects.py).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sleave.dependence.correlation import pair_correlation
from sleave.evaluation.evidence import Evidence
from sleave.evaluation.limits import ALIKE, CORRELATED, OFTEN, SURE


class NearDuplicates:
    """Gathers near-duplicates among pairs given with their decoder cosines.

    Attributes:
        i, j, cosine: of those found.
        by_codes, by_encoders: what shows that they say the same.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self.i = self.j = torch.empty(0, dtype=torch.int64)
        self.cosine = torch.empty(0)
        self.by_codes = self.by_encoders = torch.empty(0, dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.i)

    def add(self, i: Int64[Tensor, " n"], j: Int64[Tensor, " n"], cosine: Float[Tensor, " n"]) -> None:
        """Keep those of some pairs that are near-duplicates."""
        alike = cosine >= ALIKE
        i, j, cosine = i[alike], j[alike], cosine[alike]
        by_encoders = pair_correlation(self._evidence.encoder, i, j) >= ALIKE
        by_codes = self._evidence.together(i, j) >= OFTEN
        by_codes[by_codes.clone()] = self._evidence.pearson(i[by_codes], j[by_codes]) >= CORRELATED
        exclude = self._evidence.seldom(i, j) & (self._evidence.deviations(i, j) >= SURE)
        by_encoders &= ~exclude
        kept = by_codes | by_encoders
        self.i, self.j = torch.cat([self.i, i[kept]]), torch.cat([self.j, j[kept]])
        self.cosine = torch.cat([self.cosine, cosine[kept]])
        self.by_codes = torch.cat([self.by_codes, by_codes[kept]])
        self.by_encoders = torch.cat([self.by_encoders, by_encoders[kept]])
