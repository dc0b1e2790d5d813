"""The numbers that decide what an audit lists where."""

from __future__ import annotations

from sleave.evaluation.limits import ALIKE, CORRELATED, OFTEN, SELDOM, SURE

SPLIT = 0.6  # decoder cosine of suspects of splitting
ABSORBED = 0.3  # decoder cosine of suspects of absorption
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
