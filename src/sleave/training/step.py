"""One step: the loss, its gradient, the update. The plain torch reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.errors import SleaveError
from sleave.base.files import torch_dtype
from sleave.base.settings import DType
from sleave.penalties.penalty import Penalty
from sleave.training.settings import OptimizerSettings, TrainingSettings

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
MAX_SKIPPED = 20  # float16 steps in a row whose gradient overflowed, before that is an error


@dataclass(frozen=True)
class StepResult:
    """What one step measured on its batch, before the update.

    Attributes:
        mse: squared error, summed over d_in, averaged over rows.
        l1: sum of the codes over d_sae, averaged over rows.
        constraint: the penalty, times its warm-up.
        loss: mse + sparsity weight * l1 + constraint.
        variance: sum over d_in of the batch's variance; mse / variance is the FVU.
        rows: rows of the batch.
        fired: (d_sae,) on how many rows each feature fired.
        mean_act: (d_sae,) mean code.
        updated: False if float16 overflowed and the update was left out.
    """

    mse: float
    l1: float
    constraint: float
    loss: float
    variance: float
    rows: int
    fired: Tensor
    mean_act: Tensor
    updated: bool


class Stepper:
    """Updates an autoencoder by one batch at a time.

    The loss is ||x_hat - x||^2 (sum over d_in, mean over rows) + sparsity_weight * ||f||_1 (sum over d_sae, mean over
    rows) + constraint.

    Reference: *Top-k feature decorrelation*, Eq. (7).
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        optimizer: OptimizerSettings,
        training: TrainingSettings,
        penalty: Penalty | None,
    ) -> None:
        self.sae = sae
        self.penalty = penalty
        self.settings = training
        self.device = sae.W_dec.device
        self.optimizer = _optimizer(optimizer, sae)
        self.scaler = torch.amp.GradScaler(self.device.type, growth_factor=2.0, enabled=training.precision == "float16")
        self._forward: Forward = (
            torch.compile(self._codes_and_reconstruction) if training.compile else (self._codes_and_reconstruction)
        )
        self.skipped = 0

    def step(
        self, x: Float[Tensor, "batch d_in"], *, lr: float, sparsity_weight: float, constraint_scale: float = 1.0
    ) -> StepResult:
        """Update on one batch of scaled activations.

        Raises:
            SleaveError: the loss is NaN or infinite (nothing was updated), or accumulation does not divide the batch,
                or it leaves batch norm a single row.
        """
        x = x.to(self.device)
        parts = self.settings.accumulation
        if len(x) % parts:
            raise SleaveError(f"`training.accumulation` (= {parts}) must divide the batch of {len(x)} rows.")
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        results = [self._accumulate(part, sparsity_weight, constraint_scale, parts) for part in x.chunk(parts)]
        if self.sae.batch_norm is not None:
            self.sae.batch_norm.track(x)
        updated = self._update()
        return _merge(results, x, updated)

    def _accumulate(self, x: Tensor, sparsity_weight: float, constraint_scale: float, parts: int) -> StepResult:
        acts, x_hat = self._autocast_forward(x)
        residual = x_hat.float() - x
        mse = residual.square().sum(dim=1).mean()
        total = acts.sum(dim=0, dtype=torch.float32)
        l1 = total.sum() / len(x)
        constraint = torch.zeros((), device=self.device)
        if self.penalty is not None and constraint_scale > 0:
            with self._autocast():
                constraint = constraint_scale * self.penalty(acts, self.sae.W_dec, residual.detach())
        loss = mse + sparsity_weight * l1 + constraint
        values = torch.stack([mse, l1, constraint, loss]).detach()
        if not bool(torch.isfinite(values).all()):
            names = ("reconstruction", "sparsity", "constraint", "loss")
            shown = ", ".join(f"{n} {float(v):g}" for n, v in zip(names, values, strict=True))
            raise SleaveError(
                f"The loss is not finite ({shown}). Nothing was updated. Lower optimizer.lr or the weight of the term "
                "that blew up, check the activations' scaling, or use training.precision = 'bfloat16'."
            )
        self.scaler.scale(loss / parts).backward()
        with torch.no_grad():
            fired = (acts > 0).float().sum(dim=0)
        mse, l1, constraint, loss = values.tolist()
        return StepResult(mse, l1, constraint, loss, math.nan, len(x), fired, total.detach() / len(x), True)

    def _codes_and_reconstruction(self, x: Tensor) -> tuple[Tensor, Tensor]:
        acts = self.sae.encode(x)
        return acts, self.sae.decode(acts)

    def _autocast_forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with self._autocast():
            if not self.settings.gradient_checkpointing:
                return self._forward(x)
            result: tuple[Tensor, Tensor] = checkpoint(self._forward, x, use_reentrant=False)
            return result

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.settings.precision)

    @torch.no_grad()
    def _update(self) -> bool:
        self.scaler.unscale_(self.optimizer)
        W_dec = self.sae.W_dec
        if self.settings.decoder_gradient == "projected" and W_dec.grad is not None:
            W_dec.grad -= (W_dec.grad * W_dec).sum(dim=1, keepdim=True) * W_dec
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        updated = self.scaler.get_scale() >= scale  # it only falls when a gradient was infinite and the step skipped
        self.skipped = 0 if updated else self.skipped + 1
        if self.skipped > MAX_SKIPPED:
            raise SleaveError(
                f"float16 gradients overflowed {self.skipped} times in a row, with the loss scale down to "
                f"{self.scaler.get_scale():g}. Use training.precision = 'bfloat16'."
            )
        W_dec.div_(W_dec.norm(dim=1, keepdim=True).clamp_min(1e-12))
        return updated


def autocast(device: torch.device, precision: DType) -> torch.autocast:
    """Autocast to a precision; off for float32."""
    enabled = precision != "float32"
    return torch.autocast(device.type, dtype=torch_dtype(precision) if enabled else None, enabled=enabled)


def _optimizer(settings: OptimizerSettings, sae: SparseAutoencoder) -> torch.optim.Optimizer:
    if settings.kind == "adam":
        return torch.optim.Adam(sae.parameters(), lr=settings.lr, betas=settings.betas, fused=True)
    return torch.optim.AdamW(
        sae.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )


def _merge(results: list[StepResult], x: Tensor, updated: bool) -> StepResult:
    def mean(name: str) -> float:
        return fmean(getattr(r, name) for r in results)

    return StepResult(
        mse=mean("mse"),
        l1=mean("l1"),
        constraint=mean("constraint"),
        loss=mean("loss"),
        variance=float(x.var(dim=0, correction=0).sum()),
        rows=len(x),
        fired=torch.stack([r.fired for r in results]).sum(dim=0),
        mean_act=torch.stack([r.mean_act for r in results]).mean(dim=0),
        updated=updated,
    )
