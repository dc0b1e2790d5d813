"""Settings of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from sleave.autoencoder.settings import AutoencoderSettings, MatryoshkaSettings, TopKSettings
from sleave.base.settings import Precision, Settings
from sleave.penalties.settings import ConstraintSettings, InformedConstraint


class SparsitySettings(Settings):
    """The term that keeps codes sparse: the L1 norm of the codes, summed over d_sae and averaged over rows, for `relu`
    (of the gate, for `gated`), the L0 norm for `jumprelu`. The other architectures have none: k says it."""

    weight: float = Field(default=0.04, ge=0)
    """What the norm is multiplied by (the papers' lambda_1); nothing for `topk`, `batch_topk` and `matryoshka`. With
    target_l0, what it is multiplied by at first."""
    warmup_steps: int = Field(default=0, ge=0)
    """The weight rises linearly from 0 over so many steps."""
    target_l0: float | None = Field(default=None, gt=0)
    """L0 (how many features fire on a row, on average) that the run is to end at: the weight is moved while training
    until it does. Only for `relu`, `jumprelu` and `gated`; of the others, L0 is k."""

    @model_validator(mode="after")
    def _weight_can_be_moved(self) -> SparsitySettings:
        if self.target_l0 is not None and not self.weight:
            raise ValueError(
                "target_l0 needs a weight above 0, from where it is moved; leave weight out for the default"
            )
        if self.target_l0 is not None and self.warmup_steps:
            raise ValueError(
                f"warmup_steps (= {self.warmup_steps}) cannot be used with target_l0, which moves the weight itself; "
                "leave one of them out"
            )
        return self


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSettings(Settings):
    """How weights are updated."""

    kind: Literal["adam", "adamw"] = "adam"
    """`adam`, or `adamw` with decoupled weight decay."""
    lr: float = Field(default=3e-4, gt=0)
    """Learning rate, after warm-up and before decay."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Decay rates of the two moments, each at least 0 and below 1."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay; only for `adamw`."""
    clip_norm: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """Gradients of a larger norm, over all weights together, are scaled down to this one; 0: never. `auto` is 1 for
    `topk`, `batch_topk` and `matryoshka`, as in the libraries that people train them with, and 0 for the others, of
    which the papers say nothing. With Adam's long memory it makes the large gradients of the first steps forgotten."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate goes on after warm-up: stays, or falls to 0 at the last step."""
    warmup_steps: int = Field(default=0, ge=0)
    """The learning rate rises linearly from 0 over so many steps."""

    @model_validator(mode="after")
    def _decay_is_applied(self) -> OptimizerSettings:
        if self.kind == "adam" and self.weight_decay:
            raise ValueError(f"weight_decay (= {self.weight_decay}) needs kind = 'adamw'; 'adam' would ignore it")
        return self


class TrainingSettings(Settings):
    """How long, how exactly, and how safely."""

    steps: int = Field(default=1000, ge=1)
    """How many updates."""
    precision: Precision = "auto"
    """Autocast dtype of the matrix products; weights and optimizer stay in float32. `auto` is `bfloat16` where the
    device has instructions for it, `float32` elsewhere (also where a run goes on that was begun on another device).
    `float16` scales the loss dynamically (growth factor 2.0), as the paper did."""
    device: str = "auto"
    """`auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`."""
    decoder_gradient: Literal["projected", "plain"] = "projected"
    """Decoder rows are scaled to norm one after every update. `projected` first takes out of their gradient what
    points along the row, which scaling would undo but Adam's moments would remember; `plain` does not, as the paper."""
    accumulation: int = Field(default=1, ge=1)
    """Split each batch into so many parts to save memory. The constraint then sees a part at a time and is averaged
    over them; it must divide the batch."""
    gradient_checkpointing: bool = False
    """Compute codes again in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile encoder and decoder with torch.compile (needs a C++ compiler); only for `relu`, `jumprelu`, `gated`."""
    fused: bool = True
    """On a CPU, update by a pass of sleave's own, and (`relu`, `topk`, `batch_topk`, `matryoshka`, without batch norm
    and dropout) encode, decode and take gradients so, not in float16; off: in plain torch, the same to rounding."""
    shards: int = Field(default=1, ge=1)
    """Processes that have a part of the features each (`torchrun`), for dictionaries that are too large for one device;
    others share the batch. It changes what is computed where, not what is trained."""
    dead_after_tokens: int = Field(default=100_000, ge=1)
    """A feature that has not fired in so many training rows (tokens) counts as dead; AuxK then revives it."""
    checkpoint_every: int = Field(default=100, ge=1)
    """Write a checkpoint every so many steps; one is also written on Ctrl-C, SIGTERM and at the end."""
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Send the metrics of every step to these too. metrics.jsonl is always written."""


class RunSettings(Settings):
    """Everything that training itself depends on; where the activations come from is the recipe's."""

    seed: int = Field(default=0, ge=0)
    """Of initialisation and batches. The same seed on the same machine gives the same weights to the bit (on a CPU; a
    GPU adds up in no fixed order)."""
    autoencoder: AutoencoderSettings
    """The dictionary."""
    sparsity: SparsitySettings = SparsitySettings()
    constraint: ConstraintSettings = InformedConstraint()
    """What keeps features apart."""
    optimizer: OptimizerSettings = OptimizerSettings()
    training: TrainingSettings = TrainingSettings()

    @property
    def clip_norm(self) -> float:
        """The optimizer's, with `auto` resolved; 0 for none."""
        given = self.optimizer.clip_norm
        return float(isinstance(self.autoencoder, TopKSettings)) if given == "auto" else given

    @field_validator("autoencoder", mode="before")
    @classmethod
    def _kind_is_relu(cls, values: Any) -> Any:
        """The kind may be left out."""
        return {"kind": "relu", **values} if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _target_can_be_met(self) -> RunSettings:
        target, autoencoder = self.sparsity.target_l0, self.autoencoder
        if target is not None and isinstance(autoencoder, TopKSettings):
            raise ValueError(
                f"sparsity.target_l0 (= {target}) cannot be used with autoencoder.kind = {autoencoder.kind!r}, whose "
                "L0 is autoencoder.k; give that instead"
            )
        if target is not None and target >= autoencoder.d_sae:
            raise ValueError(f"sparsity.target_l0 (= {target}) must be below autoencoder.d_sae (= {autoencoder.d_sae})")
        return self

    @model_validator(mode="after")
    def _can_be_parted(self) -> RunSettings:
        shards, d_sae, kind = self.training.shards, self.autoencoder.d_sae, self.constraint.kind
        if shards == 1:
            return self
        if d_sae % shards:
            raise ValueError(f"training.shards (= {shards}) must divide autoencoder.d_sae (= {d_sae})")
        if self.training.precision == "float16":
            raise ValueError("training.shards cannot be used with float16, which scales the loss; use bfloat16")
        if isinstance(self.autoencoder, MatryoshkaSettings):
            raise ValueError("training.shards cannot be used with autoencoder.kind = 'matryoshka'")
        if kind in ("gradient", "decoder"):
            raise ValueError(
                f"training.shards cannot be used with constraint.kind = {kind!r}, which needs all of W_dec"
            )
        return self

    @model_validator(mode="after")
    def _can_be_compiled(self) -> RunSettings:
        if self.training.compile and isinstance(self.autoencoder, TopKSettings):
            raise ValueError(
                f"training.compile cannot be used with autoencoder.kind = {self.autoencoder.kind!r}, whose codes are "
                "held as what fires; leave it out"
            )
        return self
