"""The numbers that decide which pairs of features count as what."""

from __future__ import annotations

OFTEN = 10  # rows; on fewer together, or of a feature, what codes show may be an accident of the text
ALIKE = 0.8  # decoder cosine of near-duplicates, and encoder cosine of those whose encoders show it
CORRELATED = 0.5  # Pearson's correlation of near-duplicates whose codes show it
SELDOM = 0.5  # both fire together on at most this share of the rows that chance would have
SURE = 3.0  # standard deviations below chance, for suspects and for features that exclude each other
