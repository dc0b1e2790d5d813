"""The sparse autoencoder: x -> codes -> x_hat. What its architectures share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor, nn

from sleave.autoencoder.batch_norm import BatchNorm
from sleave.base.errors import SleaveError
from sleave.base.ranks import current
from sleave.codes.codes import Codes
from sleave.codes.products import times

ACTIVE = 1e-6  # mean code above which a feature counts as active (Top-k feature decorrelation, 5.3)


@dataclass(frozen=True)
class TrainingPass:
    """What a batch of training rows gives.

    Attributes:
        acts: (batch, d_sae) the codes.
        x_hat: (batch, d_in) their reconstruction.
        sparsity: what the loss has times `sparsity.weight`, mean over rows; None stands for the L1 norm of the codes.
        auxiliary: what the architecture adds to the loss besides, mean over rows; None for nothing.
        least: the smallest code that fired, for architectures that keep a running threshold.
    """

    acts: Tensor | Codes
    x_hat: Tensor
    sparsity: Tensor | None = None
    auxiliary: Tensor | None = None
    least: Tensor | None = None


@contextmanager
def inference(sae: SparseAutoencoder) -> Iterator[None]:
    """Within the block the autoencoder does what it does once trained: no dropout, thresholds, no gradients."""
    training = sae.training
    sae.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        sae.train(training)


class SparseAutoencoder(nn.Module, ABC):
    """x_hat = f W_dec + b_dec, where each architecture has its own f = codes of x; perhaps with batch norm and dropout.

    With batch norm, codes are those of BN(x), and x_hat still is of x. With dropout, `decode` reads, in training
    mode, codes of which a random share is 0 and the others are divided by 1 - dropout. `encode` returns the codes
    themselves, so that whatever is measured or penalised on codes is about what the encoder says: dropped codes would
    make two features seem to fire together more rarely than they do. Saved files have neither (see `fold`).

    Attributes:
        W_enc: (d_in, d_sae); each feature's column is contiguous in memory, so that code which wants contiguous
            parameters (`safetensors.save_file`) needs `.contiguous()`, and values are to be set with `copy_`.
        b_enc: (d_sae,).
        W_dec: (d_sae, d_in); its rows are the features' directions.
        b_dec: (d_in,).
        apply_b_dec_to_input: encode x - b_dec instead of x. Off in training (one product fewer); on in saved files,
            where it keeps float32 accurate although a residual stream's mean can be many of its deviations.
        batch_norm: what the encoder's input goes through, or None.
        dropout: share of the codes that the decoder does not see, in training.
        architecture: its name, as in settings.
        scale_free: whether each feature's codes may be rescaled without changing which fire.
        lr_scale: parameters that learn at another rate, by name, in multiples of the optimizer's.
    """

    architecture: ClassVar[str]
    scale_free: ClassVar[bool] = True
    lr_scale: Mapping[str, float] = {}

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        apply_b_dec_to_input: bool = False,
        *,
        batch_norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if d_in < 1 or d_sae < 1:
            raise SleaveError(f"`d_in` (= {d_in}) and `d_sae` (= {d_sae}) must be at least 1.")
        if not 0 <= dropout < 1:
            raise SleaveError(f"`dropout` (= {dropout}) must be at least 0 and below 1.")
        self.W_enc = nn.Parameter(torch.zeros(d_sae, d_in).t())
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.W_dec = nn.Parameter(torch.zeros(d_sae, d_in))
        self.b_dec = nn.Parameter(torch.zeros(d_in))
        self.apply_b_dec_to_input = apply_b_dec_to_input
        self.batch_norm = BatchNorm(d_in) if batch_norm else None
        self.dropout = dropout

    def extra_repr(self) -> str:
        names = ("d_in", "d_sae", "k", "widths", "bandwidth", "dropout")
        return ", ".join(f"{name}={value}" for name in names if (value := getattr(self, name, None)))

    def feature_dimension(self, name: str) -> int | None:
        """Which dimension of a tensor of its state is that of features; None if it has none."""
        if name == "b_dec" or name.startswith("batch_norm.") or self.state_dict()[name].ndim == 0:
            return None
        return int(name == "W_enc")

    @torch.no_grad()
    def keep_features(self, part: slice) -> None:
        """Leave only some of the features: this one is then a part of a dictionary that several processes share."""
        for name, tensor in self.state_dict().items():
            if (dimension := self.feature_dimension(name)) is not None:
                kept = tensor.movedim(dimension, 0)[part].clone().movedim(0, dimension)
                if isinstance(getattr(self, name), nn.Parameter):
                    setattr(self, name, nn.Parameter(kept))
                else:
                    self.register_buffer(name, kept)

    @property
    def d_in(self) -> int:
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        return self.W_dec.shape[0]

    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """The codes of some activations, densely.

        Raises:
            SleaveError: the width is not d_in, or batch norm is training and there is a single row.
        """
        acts = self.codes(x.reshape(-1, x.shape[-1]))
        return (acts.to_dense() if isinstance(acts, Codes) else acts).reshape(*x.shape[:-1], self.d_sae)

    def codes(self, x: Float[Tensor, "batch d_in"]) -> Tensor | Codes:
        """The codes of some rows, in the form that this architecture has them: dense, or of what fires.

        Raises:
            SleaveError: as `encode`.
        """
        return self._codes(self._encoder_input(x))

    @abstractmethod
    def _codes(self, x: Tensor) -> Tensor | Codes:
        """The codes of what the encoder reads."""

    def _encoder_input(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.d_in:
            raise SleaveError(
                f"`x` has width {x.shape[-1]}, but this autoencoder reads width {self.d_in}. "
                "Give it activations of the model and layer that it was trained on."
            )
        if self.apply_b_dec_to_input:
            x = x - self.b_dec
        return x if self.batch_norm is None else self.batch_norm(x)

    def decode(self, acts: Float[Tensor, "*batch d_sae"] | Codes) -> Float[Tensor, "*batch d_in"]:
        """The reconstruction from codes; in training mode, from those that dropout leaves.

        Raises:
            SleaveError: the width is not d_sae.
        """
        if acts.shape[-1] != self.d_sae:
            raise SleaveError(f"`acts` has width {acts.shape[-1]}, but this autoencoder has d_sae = {self.d_sae}.")
        if isinstance(acts, Codes):
            return current().features.added(times(self._left_by_dropout(acts), self.W_dec)) + self.b_dec
        return (
            current().features.added(nn.functional.dropout(acts, self.dropout, self.training) @ self.W_dec) + self.b_dec
        )

    def _left_by_dropout(self, codes: Codes) -> Codes:
        return codes.with_value(nn.functional.dropout(codes.value, self.dropout, self.training))

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """The reconstruction of some activations."""
        acts = self.codes(x.reshape(-1, x.shape[-1]))
        return self.decode(acts).reshape(x.shape)

    def training_pass(self, x: Float[Tensor, "batch d_in"], dead: Bool[Tensor, " d_sae"] | None = None) -> TrainingPass:
        """Codes, reconstruction and what the architecture adds to the loss.

        Args:
            x: scaled training rows.
            dead: which features count as dead, for architectures that revive them.
        """
        acts = self.codes(x)
        return TrainingPass(acts, self.decode(acts))

    @torch.no_grad()
    def track(self, x: Float[Tensor, "batch d_in"], least: Tensor | None) -> None:
        """Once a step: move what runs along with training (batch norm's statistics, a threshold).

        Args:
            x: the whole batch.
            least: the mean over its parts of `TrainingPass.least`.
        """
        if self.batch_norm is not None:
            self.batch_norm.track(x)

    @abstractmethod
    def folded(self, shift: Float64[Tensor, " d_sae"], factor: Float64[Tensor, " d_sae"]) -> SparseAutoencoder:
        """What `fold` makes of this architecture: a new one with its own numbers set, and the common ones not yet.

        Args:
            shift: what has been added to the product x W_enc, to make up for another origin of x.
            factor: what each feature's codes are then times.
        """
