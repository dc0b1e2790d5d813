"""Settings of the constraint that keeps features apart."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sleave.base.settings import Settings
from sleave.dependence.correlation import Measure
from sleave.dependence.information import Baseline
from sleave.dependence.kde import BandwidthScale
from sleave.dependence.mutual_information import Estimation, Estimator
from sleave.penalties.chosen import Normalization
from sleave.penalties.decoder import DecoderOrthogonality
from sleave.penalties.guided import WEIGHT, GradientOrthogonality, MIOrtho, TemporalOrthogonality
from sleave.penalties.information import InformationPenalty, Weighting
from sleave.penalties.informed import InformedOrthogonality
from sleave.penalties.orthogonality import FullOrthogonality, SelectiveOrthogonality
from sleave.penalties.penalty import Penalty

ONE_AT = 640  # d_in at which a weight of `informed` was found; the squared error, a sum over d_in, grows with it
KIND = (
    "Which constraint: `none`; `informed`, sleave's own; `selective` and its baseline `full`; `mi` (MI-Ortho) and its "
    "baselines `gradient` and `temporal`; `information`, mutual information itself; or `decoder` (OrtSAE's), which "
    "looks at decoder directions alone. Changing it starts its section from that kind's defaults."
)


class NoConstraint(Settings):
    """No constraint: reconstruction and sparsity alone."""

    kind: Literal["none"] = Field(default="none", description=KIND)

    def build(self, d_in: int) -> Penalty | None:
        """The penalty that these settings describe for an autoencoder of that width of input: none."""
        return None


class _Constraint(Settings):
    warmup_steps: int = Field(default=0, ge=0)
    """The weight rises linearly from 0 over so many steps."""


class FullConstraint(_Constraint):
    """Full orthogonality: push apart all pairs. The baseline of selective orthogonality."""

    kind: Literal["full"] = Field(default="full", description=KIND)
    weight: float = Field(default=0.1, ge=0)
    """What the constraint is multiplied by: a sum over pairs for `selective` and `full`, a mean for others; a sum times
    d_in / 640 for `informed`, where 1 suits activations of about one unit per dimension (`buffer.scaling`)."""
    measure: Measure = "cosine"
    """`cosine` (uncentred, the paper's) or `pearson`."""

    def build(self, d_in: int) -> Penalty:
        """The penalty that these settings describe."""
        return FullOrthogonality(self.weight, self.measure)


class _Chosen(_Constraint):
    """Constraints on the pairs that are most dependent."""

    top: float = Field(default=0.1, gt=0, lt=1)
    """Share of all P pairs that is pushed apart, zeros counted: 0.001 in *Top-k feature decorrelation*, 0.1 ("above
    the 90th percentile") in *MI-Ortho*."""
    refresh: int = Field(default=20, ge=0)
    """Choose the pairs anew every so many steps; 0: once, on the first batch."""
    window: int = Field(default=1, ge=1)
    """Choose from the last so many batches."""
    min_coactivations: int = Field(default=0, ge=0)
    """Leave out pairs that fire together in fewer rows of the window than this."""
    shrinkage: float = Field(default=0.0, ge=0)
    """Choose by score * m / (m + shrinkage), m the rows of the window on which both fire; `informed` pushes by it."""
    compare: bool = False
    """After each choice, log how many pairs the next batches, as many as the window, would have chosen too (costs
    another choice; needs refresh above window)."""


class _Orthogonal(_Chosen):
    measure: Measure = "cosine"
    """What C is: `cosine` (uncentred, the papers') or `pearson`."""


class SelectiveConstraint(_Orthogonal):
    """Selective orthogonality: push apart only the most correlated pairs."""

    kind: Literal["selective"] = Field(default="selective", description=KIND)
    weight: float = Field(default=0.1, ge=0)
    """What the constraint is multiplied by: a sum over pairs for `selective` and `full`, a mean for others; a sum times
    d_in / 640 for `informed`, where 1 suits activations of about one unit per dimension (`buffer.scaling`)."""
    top: float = Field(default=0.001, gt=0, le=1)
    """Share of all P pairs that is pushed apart, zeros counted: 0.001 in *Top-k feature decorrelation*, 0.1 ("above
    the 90th percentile") in *MI-Ortho*."""
    refresh: int = Field(default=1, ge=0)
    """Choose the pairs anew every so many steps; 0: once, on the first batch."""

    def build(self, d_in: int) -> Penalty:
        """The penalty that these settings describe."""
        return SelectiveOrthogonality(**_arguments(self))


class _Guided(_Orthogonal):
    weight: float = Field(default=WEIGHT, ge=0)
    """What the constraint is multiplied by: a sum over pairs for `selective` and `full`, a mean for others; a sum times
    d_in / 640 for `informed`, where 1 suits activations of about one unit per dimension (`buffer.scaling`)."""
    normalization: Normalization = "mean"
    """`mean` of tau_ij C_ij^2 over the chosen pairs, the `sum` of it, or `none`: the paper's sum of
    tau_ij (f_i.f_j)^2, a million times the reconstruction error when training begins."""


class GradientConstraint(_Guided):
    """Pairs chosen by the |cosine| of the squared error's gradients in their codes (MI-Ortho's runs 5 to 7)."""

    kind: Literal["gradient"] = Field(default="gradient", description=KIND)
    refresh: int = Field(default=0, ge=0)
    """Choose the pairs anew every so many steps; 0: once, on the first batch (run 5)."""

    def build(self, d_in: int) -> Penalty:
        """The penalty that these settings describe."""
        return GradientOrthogonality(**_arguments(self))


class TemporalConstraint(_Guided):
    """Pairs chosen and weighted by their correlation pooled over many batches (MI-Ortho's runs 8 and 9)."""

    kind: Literal["temporal"] = Field(default="temporal", description=KIND)
    window: int = Field(default=20, ge=1)
    """Pool the last so many batches; the paper's 5 or 20."""

    def build(self, d_in: int) -> Penalty:
        """The penalty that these settings describe."""
        return TemporalOrthogonality(**_arguments(self))


class _ByInformation(_Orthogonal):
    estimator: Estimator = "atoms"
    """How mutual information is estimated: `atoms` (zero as an atom of its own, active values in bins of equal count),
    `activity` (on or off only) or `kde` (the paper's; exact, biased, and slow for codes that are not sparse)."""
    bins: int = Field(default=4, ge=1, le=64)
    """Of `atoms`: the most bins for a feature's active values."""
    baseline: Baseline = "permutation"
    """Of `atoms` and `activity`: what is subtracted. `permutation`, the exact mean over all permutations of the rows;
    `shift`, the information at a shift of half the rows; or `none`."""
    bandwidth_factor: float = Field(default=0.15, gt=0)
    """Of `kde`: the bandwidth is factor * N^(-1/5)."""
    bandwidth_scale: BandwidthScale = "absolute"
    """Of `kde`: `absolute`, the paper's, or `std`: times each feature's standard deviation."""

    def _with_estimation(self) -> dict[str, Any]:
        arguments = _arguments(self)
        estimation = Estimation(**{name: arguments.pop(name) for name in Estimation.__dataclass_fields__})
        return {**arguments, "estimation": estimation}


class InformedConstraint(_ByInformation):
    """sleave's own: pairs with mutual information over many batches, each pushed apart as hard as it has."""

    kind: Literal["informed"] = Field(default="informed", description=KIND)
    weight: float = Field(default=1.0, ge=0)
    """What the constraint is multiplied by: a sum over pairs for `selective` and `full`, a mean for others; a sum times
    d_in / 640 for `informed`, where 1 suits activations of about one unit per dimension (`buffer.scaling`)."""
    refresh: int = Field(default=50, ge=0)
    """Choose the pairs anew every so many steps; 0: once, on the first batch."""
    window: int = Field(default=10, ge=1)
    """Choose from the last so many batches."""

    def build(self, d_in: int) -> Penalty:
        """The penalty that these settings describe."""
        return InformedOrthogonality(**self._with_estimation() | {"weight": self.weight * d_in / ONE_AT})


class MIConstraint(_ByInformation, _Guided):
    """MI-Ortho: pairs with the most mutual information, pushed by tau_ij = tau_0 exp(beta I_ij)."""

    kind: Literal["mi"] = Field(default="mi", description=KIND)
    warmup_steps: int = Field(default=100, ge=0)
    """The weight rises linearly from 0 over so many steps."""
    tau_0: float = Field(default=0.5, gt=0)
    """tau of a pair without mutual information."""
    beta: float = Field(default=2.0, ge=0)
    """How fast tau grows with mutual information."""
    tau_max: float = Field(default=10.0, gt=0)
    """Where tau is clipped: exact duplicates may reach hundreds."""

    def build(self, d_in: int) -> Penalty:
        """The penalty that these settings describe."""
        return MIOrtho(**self._with_estimation())


class InformationConstraint(_Chosen):
    """Mutual information itself, by the paper's kernel density estimate, differentiated (MI-Ortho's Eq. (4))."""

    kind: Literal["information"] = Field(default="information", description=KIND)
    weight: float = Field(default=100.0, ge=0)
    """What the constraint is multiplied by: a sum over pairs for `selective` and `full`, a mean for others; a sum times
    d_in / 640 for `informed`, where 1 suits activations of about one unit per dimension (`buffer.scaling`)."""
    top: float = Field(default=0.001, gt=0, lt=1)
    """Share of all P pairs that is pushed apart, zeros counted."""
    bandwidth_factor: float = Field(default=0.15, gt=0)
    """Of `kde`: the bandwidth is factor * N^(-1/5)."""
    bandwidth_scale: BandwidthScale = "absolute"
    """Of `kde`: `absolute`, the paper's, or `std`: times each feature's standard deviation."""
    weighting: Weighting = "uniform"
    """Of kind `information`, w_ij: 1 (`uniform`), or the pair's mutual information (`information`)."""

    def build(self, d_in: int) -> Penalty:
        """The penalty that these settings describe."""
        return InformationPenalty(**_arguments(self))


class DecoderConstraint(_Constraint):
    """OrtSAE's: push apart decoder directions that are alike, whatever the codes do."""

    kind: Literal["decoder"] = Field(default="decoder", description=KIND)
    weight: float = Field(default=0.25, ge=0)
    """What the constraint is multiplied by: a sum over pairs for `selective` and `full`, a mean for others; a sum times
    d_in / 640 for `informed`, where 1 suits activations of about one unit per dimension (`buffer.scaling`)."""
    chunk: int = Field(default=8192, ge=2)
    """Of `decoder`: each direction is compared with the others of a random chunk of at least so many."""

    def build(self, d_in: int) -> Penalty:
        """The penalty that these settings describe."""
        return DecoderOrthogonality(**_arguments(self))


def _arguments(settings: _Constraint) -> dict[str, Any]:
    """The penalty's own: the kind has chosen it, and the warm-up is training's."""
    return settings.model_dump(exclude={"kind", "warmup_steps"})


ConstraintSettings = Annotated[
    NoConstraint
    | InformedConstraint
    | SelectiveConstraint
    | FullConstraint
    | MIConstraint
    | GradientConstraint
    | TemporalConstraint
    | InformationConstraint
    | DecoderConstraint,
    Field(discriminator="kind"),
]
