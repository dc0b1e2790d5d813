"""The update in one pass over the weights and one over the gradients, where plain torch takes about ten.

The first, over what is clipped or projected, has the gradients' norm and how much of each decoder row's points along
the row; the second does what is done with them, Adam, and scales decoder rows to norm one. Moments are held as torch's
optimizer holds them, so that a checkpoint is the same whichever way it was trained.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sleave.autoencoder.model import SparseAutoencoder
from sleave.base.errors import SleaveError
from sleave.codes.compiled import compiled
from sleave.training.fused import kernels


def update(optimizer: torch.optim.Optimizer, sae: SparseAutoencoder, projected: bool, clip_norm: float) -> None:
    """What `Stepper` does in plain torch: project, clip, Adam or AdamW, scale.

    Args:
        optimizer: Adam or AdamW, of which each group is one parameter, float32, on a CPU.
        projected: take out of the gradient of each decoder row what points along it.
        clip_norm: of all gradients together; 0 for any.

    Raises:
        SleaveError: the gradients that are looked at are not finite; nothing was updated.
    """
    groups = [(group, group["params"][0]) for group in optimizer.param_groups if group["params"][0].grad is not None]
    squares, along = 0.0, torch.empty(0)
    for _, parameter in groups:
        takes = projected and parameter is sae.W_dec
        if takes or clip_norm > 0:
            given = [_rows(t, parameter) for t in (parameter.grad, parameter)]
            square, dot = compiled(kernels.row_squares, *given, takes)
            along = dot if takes else along
            squares += float(square.sum(dtype=torch.float64))
    if not math.isfinite(squares):
        raise SleaveError(
            "The gradient is not finite. Nothing was updated. Lower optimizer.lr, or check the activations' scaling, "
            "and whether all weights are finite."
        )
    factor = min(1.0, clip_norm / (squares**0.5 + 1e-6)) if clip_norm > 0 else 1.0
    for group, parameter in groups:
        state = optimizer.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        step, lr, (beta_1, beta_2) = float(state["step"]), group["lr"], group["betas"]
        decay = lr * group["weight_decay"]  # which only AdamW has
        written = [_rows(t, parameter) for t in (parameter, state["exp_avg"], state["exp_avg_sq"])]
        assert all(t.is_contiguous() for t in written)  # else a copy would be updated
        weight, first, second = written
        gradient = _rows(parameter.grad, parameter).contiguous()
        own = along if parameter is sae.W_dec else along[:0]
        corrections = (1 - beta_1**step, (1 - beta_2**step) ** 0.5)
        unit = parameter is sae.W_dec
        given = [weight, gradient, first, second]
        compiled(kernels.adam, *given, factor, own, lr, beta_1, beta_2, group["eps"], corrections, decay, unit)


def _rows(tensor: Tensor, parameter: Tensor) -> Tensor:
    """As rows that are contiguous in the parameter: those of the encoder are its columns."""
    if parameter.ndim < 2:
        return tensor.view(1, -1)
    return tensor if parameter.is_contiguous() else tensor.t()
