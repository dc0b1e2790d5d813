"""Settings of the autoencoder: one class for each architecture."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sleave.autoencoder.batch_topk import BatchTopKAutoencoder
from sleave.autoencoder.gated import GatedAutoencoder
from sleave.autoencoder.jumprelu import BANDWIDTH, THRESHOLD, JumpReLUAutoencoder
from sleave.autoencoder.k_sparse import AUX_WEIGHT
from sleave.autoencoder.matryoshka import MatryoshkaAutoencoder
from sleave.autoencoder.model import SparseAutoencoder
from sleave.autoencoder.relu import ReLUAutoencoder
from sleave.autoencoder.topk import TopKAutoencoder
from sleave.base.settings import Settings

KIND = (
    "Architecture: `relu`, the papers', kept sparse by the L1 norm; `jumprelu`, by the L0 norm; `gated`, by the "
    "L1 norm of its gate; or `topk`, `batch_topk` and `matryoshka`, of which k features fire, so that sparsity.weight "
    "says nothing. Changing it keeps what every kind has (d_sae, initialisation, ...)."
)


class CommonAutoencoderSettings(Settings):
    """What every architecture has."""

    d_sae: int = Field(ge=2)
    """How many features the dictionary has."""
    initialisation: Literal["data", "random"] = "data"
    """Decoder rows at the start: `data` points (centred, unit norm) or `random` directions. The encoder is tied to
    them at the start, either way."""
    b_dec: Literal["mean", "geometric_median", "zeros"] = "mean"
    """The decoder's bias at the start: the data's `mean`, its `geometric_median`, or `zeros`."""
    firing_rate: float = Field(default=0.03, gt=0, lt=1)
    """Share of rows on which each feature's pre-activation is positive at the start (sets b_enc; only for `data`). For
    `topk`, `batch_topk`, `matryoshka` at least 2 k / d_sae, since k features could not fire otherwise."""
    batch_norm: bool = False
    """Normalise what the encoder reads, per dimension, by the batch's statistics (MI-Ortho's); what is reconstructed
    stays as it is. The saved autoencoder has it folded in, with running statistics. With training.accumulation, each
    part of a batch is normalised by its own."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the codes that the decoder does not see in training (MI-Ortho's: 0.1); the others are divided by 1 -
    dropout. Sparsity, constraint and statistics of firing are of all codes, since they are about what the encoder
    says; the squared error of training is that with dropout."""

    @property
    def positive_rate(self) -> float:
        """`firing_rate`, raised where k asks for more."""
        return self.firing_rate

    @abstractmethod
    def build(self, d_in: int) -> SparseAutoencoder:
        """The autoencoder that these settings describe, before initialisation."""

    def _common(self) -> dict[str, Any]:
        return {"d_sae": self.d_sae, "batch_norm": self.batch_norm, "dropout": self.dropout}


class ReLUSettings(CommonAutoencoderSettings):
    """f = ReLU(x W_enc + b_enc)."""

    kind: Literal["relu"] = Field(default="relu", description=KIND)

    def build(self, d_in: int) -> SparseAutoencoder:
        return ReLUAutoencoder(d_in, **self._common())


class JumpReLUSettings(CommonAutoencoderSettings):
    """f = z H(z - threshold)."""

    kind: Literal["jumprelu"] = Field(default="jumprelu", description=KIND)
    threshold: float = Field(default=THRESHOLD, ge=0)
    """Of `jumprelu`: every feature's threshold at the start."""
    bandwidth: float = Field(default=BANDWIDTH, gt=0)
    """Of `jumprelu`: width of the kernel through which the threshold learns, in units of the scaled activations."""
    threshold_lr: float | None = Field(default=None, gt=0)
    """Of `jumprelu`: the thresholds' learning rate, in multiples of `optimizer.lr`; sqrt(d_in) if not given, 1 is
    SAELens's."""

    def build(self, d_in: int) -> SparseAutoencoder:
        own: dict[str, Any] = {"bandwidth": self.bandwidth, "threshold_lr": self.threshold_lr}
        return JumpReLUAutoencoder(d_in, **self._common(), threshold=self.threshold, **own)


class GatedSettings(CommonAutoencoderSettings):
    """Whether a feature fires and how strongly, decided apart."""

    kind: Literal["gated"] = Field(default="gated", description=KIND)

    def build(self, d_in: int) -> SparseAutoencoder:
        return GatedAutoencoder(d_in, **self._common())


class TopKSettings(CommonAutoencoderSettings):
    """The k strongest features of each row fire."""

    kind: Literal["topk"] = Field(default="topk", description=KIND)
    b_dec: Literal["mean", "geometric_median", "zeros"] = "geometric_median"
    """The decoder's bias at the start: the data's `mean`, its `geometric_median`, or `zeros`."""
    k: int = Field(default=32, ge=1)
    """Of `topk`, `batch_topk`, `matryoshka`: how many features fire on a row (on average over the batch, but for
    `topk`)."""
    aux_weight: float = Field(default=AUX_WEIGHT, ge=0)
    """Of `topk`, `batch_topk`, `matryoshka`: what AuxK is multiplied by, the squared error of reconstructing the
    residual from features that have not fired for training.dead_after_tokens."""

    @property
    def positive_rate(self) -> float:
        """`firing_rate`, raised where k asks for more."""
        return max(self.firing_rate, min(2 * self.k / self.d_sae, 0.5))

    @model_validator(mode="after")
    def _k_fits(self) -> TopKSettings:
        if self.k > self.d_sae:
            raise ValueError(f"k (= {self.k}) must be at most d_sae (= {self.d_sae}): how many features fire on a row")
        return self

    def build(self, d_in: int) -> SparseAutoencoder:
        return TopKAutoencoder(d_in, **self._common(), k=self.k, aux_weight=self.aux_weight)


class BatchTopKSettings(TopKSettings):
    """The k strongest features of a row fire on average."""

    kind: Literal["batch_topk"] = Field(default="batch_topk", description=KIND)  # type: ignore[assignment]

    def build(self, d_in: int) -> SparseAutoencoder:
        return BatchTopKAutoencoder(d_in, **self._common(), k=self.k, aux_weight=self.aux_weight)


class MatryoshkaSettings(TopKSettings):
    """BatchTopK whose first features reconstruct by themselves."""

    kind: Literal["matryoshka"] = Field(default="matryoshka", description=KIND)  # type: ignore[assignment]
    levels: tuple[float, ...] = (0.03125, 0.09375, 0.21875, 0.46875, 1.0)
    """Of `matryoshka`: the nested dictionaries, as shares of d_sae, ascending to 1. These are 1/32, 3/32, 7/32, 15/32
    and all: groups of which each is twice the one before, and the rest."""

    @field_validator("levels")
    @classmethod
    def _ascend(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if not levels or levels[-1] != 1 or levels[0] <= 0 or list(levels) != sorted(set(levels)):
            raise ValueError("must ascend, from above 0 to 1")
        return levels

    def build(self, d_in: int) -> SparseAutoencoder:
        widths = sorted({max(1, round(level * self.d_sae)) for level in self.levels})
        return MatryoshkaAutoencoder(d_in, **self._common(), k=self.k, aux_weight=self.aux_weight, widths=widths)


AutoencoderSettings = Annotated[
    ReLUSettings | JumpReLUSettings | GatedSettings | TopKSettings | BatchTopKSettings | MatryoshkaSettings,
    Field(discriminator="kind"),
]
