"""The numbers that decide what an audit lists where."""

from __future__ import annotations

OFTEN = 10  # rows; on fewer together, or of a feature, what codes show may be an accident of the text
ALIKE = 0.8  # decoder cosine of near-duplicates, and encoder cosine of those whose encoders show it
CORRELATED = 0.5  # Pearson's correlation of near-duplicates whose codes show it
SPLIT = 0.6  # decoder cosine of suspects of splitting
ABSORBED = 0.3  # decoder cosine of suspects of absorption
SELDOM = 0.5  # both fire together on at most this share of the rows that chance would have
SURE = 3.0  # standard deviations below chance, for suspects and for features that exclude each other
PRESENT = 0.5  # share of the parent's own projection that is there where the child fires alone
OWN = 0.5  # standard deviations of the projection that the parent fires above its mean
CANDIDATES = 4096  # pairs whose projections are looked at

# For whoever reads the result without this code.
LIMITS = {
    "min_rows": OFTEN,
    "near_duplicate_decoder_cosine": ALIKE,
    "near_duplicate_encoder_cosine": ALIKE,
    "near_duplicate_pearson": CORRELATED,
    "split_decoder_cosine": SPLIT,
    "absorption_decoder_cosine": ABSORBED,
    "seldom_together": SELDOM,
    "deviations_below_chance": SURE,
    "absorption_projection_ratio": PRESENT,
    "absorption_projection_deviations": OWN,
}
