"""One step: the loss, its gradient, the update."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.device import choose_dtype
from sleave.base.errors import SleaveError
from sleave.base.ranks import Mesh, Ranks, sharing
from sleave.codes.codes import Codes, as_codes
from sleave.codes.compiled import compiled, on_cpu
from sleave.penalties.penalty import Penalty
from sleave.training.forward import Forward, Pass, reference
from sleave.training.fused import adam, kernels, passes
from sleave.training.l0_control import L0Controller
from sleave.training.settings import OptimizerSettings, TrainingSettings

MAX_SKIPPED = 20  # float16 steps in a row whose gradient overflowed, before that is an error


@dataclass(frozen=True)
class StepResult:
    """What one step measured on its batch, before the update.

    Attributes:
        mse: squared error, summed over d_in, averaged over rows.
        l1: sum of the codes over d_sae, averaged over rows.
        sparsity: the architecture's sparsity term, times its weight.
        sparsity_weight: that weight.
        auxiliary: what else the architecture adds to the loss.
        constraint: the penalty, times its warm-up.
        loss: mse + sparsity + auxiliary + constraint.
        variance: sum over d_in of the batch's variance; mse / variance is the FVU.
        rows: rows of the batch.
        fired: (d_sae,) on how many rows each feature fired.
        mean_act: (d_sae,) mean code.
        updated: False if float16 overflowed and the update was left out.
    """

    mse: float
    l1: float
    sparsity: float
    sparsity_weight: float
    auxiliary: float
    constraint: float
    loss: float
    variance: float
    rows: int
    fired: Tensor
    mean_act: Tensor
    updated: bool

    @property
    def fvu(self) -> float:
        """Fraction of the batch's variance that is not explained."""
        return self.mse / max(self.variance, 1e-30)

    @property
    def l0(self) -> float:
        """How many features fired on a row, on average."""
        return float(self.fired.sum()) / self.rows


class Stepper:
    """Updates an autoencoder by one batch at a time.

    The loss is ||x_hat - x||^2 (sum over d_in, mean over rows) + sparsity_weight * ||f||_1 (sum over d_sae, mean over
    rows), or what the architecture has in its place, + what the architecture adds + constraint.

    Attributes:
        controller: what says the next step's sparsity weight, if L0 has a target.

    Reference: *Top-k feature decorrelation*, Eq. (7).
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        optimizer: OptimizerSettings,
        training: TrainingSettings,
        penalty: Penalty | None,
        clip_norm: float = 0.0,
        controller: L0Controller | None = None,
        mesh: Mesh | None = None,
    ) -> None:
        self.sae = sae
        self.penalty = penalty
        self.settings = training
        self.clip_norm = clip_norm
        self.controller = controller
        self.mesh = mesh or Mesh()
        self.device = sae.W_dec.device
        self.dtype = choose_dtype(training.precision, self.device)
        self.optimizer = _optimizer(optimizer, sae)
        self.scaler = torch.amp.GradScaler(self.device.type, growth_factor=2.0, enabled=self.dtype == torch.float16)
        self._pass: Pass = torch.compile(sae.training_pass) if training.compile else sae.training_pass
        self.skipped = 0

    def step(
        self,
        x: Float[Tensor, "batch d_in"],
        *,
        lr: float,
        sparsity_weight: float,
        constraint_scale: float = 1.0,
        dead: Bool[Tensor, " d_sae"] | None = None,
    ) -> StepResult:
        """Update on one batch of scaled activations.

        Args:
            x: the rows; where ranks share the batch, those of this one, of which each has as many.
            lr: learning rate.
            sparsity_weight: what the sparsity term is multiplied by.
            constraint_scale: what the constraint is multiplied by, besides its weight.
            dead: which features, of all, count as dead, for architectures that revive them.

        Raises:
            SleaveError: the loss is NaN or infinite (nothing was updated), or accumulation does not divide the batch,
                or it leaves batch norm a single row.
        """
        x = x.to(self.device)
        parts = self.settings.accumulation
        if len(x) % parts:
            raise SleaveError(f"`training.accumulation` (= {parts}) must divide the batch of {len(x)} rows.")
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        self.optimizer.zero_grad(set_to_none=True)
        if dead is not None:
            dead = dead[self.mesh.features.part(len(dead))]
        with sharing(self.mesh):
            results = [
                self._accumulate(part, sparsity_weight, constraint_scale, parts, dead) for part in x.chunk(parts)
            ]
            least = [part.least for part in results if part.least is not None]
            updated = self._update()
            self.sae.track(x, torch.stack(least).mean() if least else None)
        variance = _variance(x, self.mesh.rows, self._fused())
        return _merge(results, x, sparsity_weight, updated, self.mesh.rows, variance)

    def _accumulate(
        self, x: Tensor, sparsity_weight: float, constraint_scale: float, parts: int, dead: Tensor | None
    ) -> _Part:
        with self._autocast():
            given = self._forward(x, dead)
        acts, mse = given.acts, given.mse
        l1 = given.total.sum() / len(x)
        sparsity = sparsity_weight * (l1 if given.sparsity is None else given.sparsity)
        zero = torch.zeros((), device=self.device)
        auxiliary = zero if given.auxiliary is None else given.auxiliary
        constraint = zero
        # What is not finite is told below, before any pair is chosen by it.
        finite = self.penalty is not None and self.mesh.everyone.all(bool(torch.isfinite(mse)))
        if self.penalty is not None and constraint_scale > 0 and finite:
            with self._autocast():
                constraint = constraint_scale * self.penalty(self._whole(acts), self.sae.W_dec, given.residual)
        l1, sparsity = self.mesh.features.added(torch.stack([l1, sparsity])).unbind()
        loss = mse + sparsity + auxiliary + constraint
        values = self.mesh.rows.mean(torch.stack([mse, l1, sparsity, auxiliary, constraint, loss]).detach())
        if not bool(torch.isfinite(values).all()):
            names = ("reconstruction", "L1", "sparsity", "auxiliary", "constraint", "loss")
            shown = ", ".join(f"{n} {float(v):g}" for n, v in zip(names, values, strict=True))
            raise SleaveError(
                f"The loss is not finite ({shown}). Nothing was updated. Lower optimizer.lr or the weight of the term "
                "that blew up, check the activations' scaling, or use training.precision = 'bfloat16'."
            )
        # Summed over ranks, so that what float16 must hold is no larger for there being several.
        self.scaler.scale(loss / (parts * self.mesh.rows.size)).backward()
        rows, features = self.mesh.rows, self.mesh.features
        fired, mean_act = rows.sum(given.fired), rows.mean(given.total.detach() / len(x))
        least = self._least_of_all(given.least)
        return _Part(values, features.cat(fired), features.cat(mean_act), least)

    def _whole(self, acts: Tensor | Codes) -> Tensor | Codes:
        """The codes of all features; of a dictionary in parts, what fires."""
        features = self.mesh.features
        if features.size == 1:
            return acts
        if isinstance(acts, Tensor):
            codes = as_codes(acts)
            acts = codes.with_value(acts[codes.row, codes.feature].float())
        return acts.merged(features)

    def _least_of_all(self, least: Tensor | None) -> Tensor | None:
        everyone = self.mesh.everyone
        if everyone.size == 1:
            return least
        of_all = everyone.least(torch.full((), torch.inf, device=self.device) if least is None else least.float())
        return of_all if bool(of_all.isfinite()) else None

    def _forward(self, x: Tensor, dead: Tensor | None) -> Forward:
        if self.settings.gradient_checkpointing:
            result: Forward = checkpoint(reference, self._pass, x, dead, use_reentrant=False)
            return result
        if self._fused() and not self.settings.compile and passes.can_fuse(self.sae):
            return passes.forward(self.sae, x, dead)
        return reference(self._pass, x, dead)

    def _fused(self) -> bool:
        """Whether sleave's own passes may be taken: on a CPU, for a whole dictionary in float32."""
        return (
            self.settings.fused
            and on_cpu(self.sae.W_enc)
            and self.dtype != torch.float16
            and self.mesh.features.size == 1
            and all(p.dtype == torch.float32 for p in self.sae.parameters())
        )

    def _autocast(self) -> torch.autocast:
        return autocast(self.device, self.dtype)

    def _clip(self) -> None:
        """Gradients of all features together, to `clip_norm`."""
        if self.mesh.features.size == 1:
            torch.nn.utils.clip_grad_norm_(self.sae.parameters(), self.clip_norm)
            return
        squares = []
        for name, parameter in self.sae.named_parameters():
            if parameter.grad is not None:
                parted = self.sae.feature_dimension(name) is not None
                square = parameter.grad.square().sum()
                squares.append(self.mesh.features.sum(square) if parted else square)
        norm = torch.stack(squares).sum().sqrt()
        torch.nn.utils.clip_grads_with_norm_(self.sae.parameters(), self.clip_norm, norm)

    @torch.no_grad()
    def _update(self) -> bool:
        for name, parameter in self.sae.named_parameters():
            if parameter.grad is not None:
                self.mesh.rows.sum_(parameter.grad)
                if name.startswith("batch_norm."):  # what each part of the features makes of it
                    parameter.grad.copy_(self.mesh.features.sum(parameter.grad))
        if self._fused():
            adam.update(self.optimizer, self.sae, self.settings.decoder_gradient == "projected", self.clip_norm)
            return True
        self.scaler.unscale_(self.optimizer)
        W_dec = self.sae.W_dec
        if self.settings.decoder_gradient == "projected" and W_dec.grad is not None:
            W_dec.grad -= (W_dec.grad * W_dec).sum(dim=1, keepdim=True) * W_dec
        if self.clip_norm > 0:
            self._clip()
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


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocast to a dtype; off for float32."""
    enabled = dtype != torch.float32
    return torch.autocast(device.type, dtype=dtype if enabled else None, enabled=enabled)


def _optimizer(settings: OptimizerSettings, sae: SparseAutoencoder) -> torch.optim.Optimizer:
    # A group for each parameter, in their order: so the optimizer numbers them as the autoencoder does.
    groups: list[dict[str, Any]] = []
    for name, parameter in sae.named_parameters():
        scale = sae.lr_scale.get(name, 1.0)
        # The optimizer decays by lr * weight_decay, and no parameter shall decay faster than the others.
        groups.append({"params": [parameter], "scale": scale, "weight_decay": settings.weight_decay / scale})
    common: dict[str, Any] = {"lr": settings.lr, "betas": settings.betas, "fused": True}
    if settings.kind == "adam":
        return torch.optim.Adam(groups, **common)
    return torch.optim.AdamW(groups, **common)


@dataclass(frozen=True)
class _Part:
    """What one part of a batch measured: mse, l1, sparsity, auxiliary, constraint and loss in `values`."""

    values: Tensor
    fired: Tensor
    mean_act: Tensor
    least: Tensor | None


def _merge(
    parts: list[_Part], x: Tensor, sparsity_weight: float, updated: bool, ranks: Ranks, variance: float
) -> StepResult:
    values = torch.stack([p.values for p in parts]).double().mean(dim=0)
    mse, l1, sparsity, auxiliary, constraint, loss = values.tolist()
    return StepResult(
        mse=mse,
        l1=l1,
        sparsity=sparsity,
        sparsity_weight=sparsity_weight,
        auxiliary=auxiliary,
        constraint=constraint,
        loss=loss,
        variance=variance,
        rows=len(x) * ranks.size,
        fired=torch.stack([p.fired for p in parts]).sum(dim=0),
        mean_act=torch.stack([p.mean_act for p in parts]).mean(dim=0),
        updated=updated,
    )


def _variance(x: Tensor, ranks: Ranks, fused: bool) -> float:
    if ranks.size == 1 and fused and x.dtype == torch.float32:
        return float(compiled(kernels.column_variance, x.contiguous()).sum())
    if ranks.size == 1:
        return float(x.var(dim=0, correction=0).sum())
    return float(ranks.mean((x - ranks.mean(x.mean(dim=0))).square().mean(dim=0)).sum())
