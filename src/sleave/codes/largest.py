"""The largest pre-activations of each row, or of a whole batch, without ever holding them all.

Products are taken a few rows at a time, in the dtype of autocast where it is on, and decide what is kept; the numbers
that are kept are then computed in float32, which costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from sleave.base.errors import SleaveError
from sleave.base.ranks import current
from sleave.codes import kernels
from sleave.codes.codes import Codes, row_starts
from sleave.codes.compiled import compiled, on_cpu
from sleave.codes.number_kernels import readable
from sleave.codes.products import entry_dots

NUMBERS = 1 << 22  # pre-activations held at once; these stay in a cache between the product and the choice
ROWS, MOST = 512, 1 << 26  # but so many rows, as far as that many numbers go: products of fewer are slow


def rows_at_once(d_sae: int) -> int:
    """How many rows' pre-activations are held at once."""
    d_sae = max(1, d_sae)
    return max(1, NUMBERS // d_sae, min(ROWS, MOST // d_sae))


@torch.no_grad()
def largest_of_rows(
    x: Float[Tensor, "batch d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"], k: int
) -> Codes:
    """The k largest positive numbers in each row of x W_enc + b_enc; of equal ones, those of earlier features.

    Where ranks share a dictionary, of all its features: those of them that are this rank's.

    Reference: Gao et al. 2024, "Scaling and evaluating sparse autoencoders", Eq. (2), with the ReLU of section 2.3.
    """
    bias = b_enc.detach().float()
    codes = Codes.cat([_largest_of_rows(product, bias, min(k, len(bias))) for product in _blocks(x, W_enc)])
    return _exact(_first_of_all_features(codes, k), x, W_enc, b_enc)


def _largest_of_rows(product: Tensor, bias: Tensor, k: int) -> Codes:
    if not on_cpu(product):
        return reference_rows(product.float().add_(bias), k)
    parts = torch.get_num_threads()
    column, count, value = compiled(kernels.largest_of_rows, readable(product), bias, k, parts)
    kept = torch.arange(k) < count[:, None]
    return Codes(len(bias), _starts(count), column[kept], value[kept])


def reference_rows(pre: Float[Tensor, "batch d_sae"], k: int) -> Codes:
    """The k largest positive numbers of each row, for any device."""
    k = min(k, pre.shape[1])
    value, column = pre.topk(k, dim=1, sorted=False)
    least = value.amin(dim=1, keepdim=True)
    # topk takes any of equal numbers; where it has left some out, the earlier ones are to be taken.
    tied = ((pre == least).sum(dim=1) > (value == least).sum(dim=1)) & (least[:, 0] > 0)
    if bool(tied.any()):
        value[tied], column[tied] = (t[:, :k] for t in pre[tied].sort(dim=1, descending=True, stable=True))
    column = torch.where(value > 0, column, pre.shape[1]).sort(dim=1).values
    kept = column < pre.shape[1]
    value = pre.gather(1, column.clamp(max=pre.shape[1] - 1))
    return Codes(pre.shape[1], _starts(kept.sum(dim=1)), column[kept], value[kept])


def _starts(count: Tensor) -> Tensor:
    return torch.cat([count.new_zeros(1), count.cumsum(0)])


@torch.no_grad()
def largest_of_batch(
    x: Float[Tensor, "batch d_in"], W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"], count: int
) -> Codes:
    """The `count` largest positive numbers of all of x W_enc + b_enc; of equal ones, those of earlier rows, features.

    Where ranks share a batch or a dictionary, of all their rows and features: those of them that are this rank's.

    Reference: Bussmann, Leask & Nanda 2024, "BatchTopK Sparse Autoencoders", section 2.
    """
    kept: list[Codes] = []
    bias = b_enc.detach().float()
    floor = 0.0  # numbers up to here are not among the largest
    for product in _blocks(x, W_enc):
        kept.append(_above(product, bias, floor))
        if sum(codes.value.numel() for codes in kept) > 2 * count:
            whole = _first(Codes.cat(kept), count)
            kept, floor = [whole], float(whole.value.min())
    return _exact(_first_of_all(_first(Codes.cat(kept), count), count), x, W_enc, b_enc)


def _above(product: Tensor, bias: Tensor, floor: float) -> Codes:
    if not on_cpu(product):
        return reference_above(product.float().add_(bias), floor)
    return Codes(len(bias), *compiled(kernels.above, readable(product), bias, floor))


def reference_above(pre: Float[Tensor, "batch d_sae"], floor: float) -> Codes:
    """The numbers above a floor, for any device."""
    row, feature = (pre > floor).nonzero(as_tuple=True)
    return Codes(pre.shape[1], row_starts(row, len(pre)), feature, pre[row, feature])


def _first(codes: Codes, count: int) -> Codes:
    """The largest so many entries; of equal ones, the first."""
    if codes.value.numel() <= count:
        return codes
    least = codes.value.kthvalue(codes.value.numel() - count + 1).values
    kept = codes.value > least
    ties = (codes.value == least).nonzero().flatten()
    kept[ties[: count - int(kept.sum())]] = True
    return codes.where(kept)


def _first_of_all_features(codes: Codes, k: int) -> Codes:
    """Those among the k largest of each row over all ranks, given the k largest of each."""
    features = current().features
    if features.size == 1:
        return codes
    place = torch.arange(codes.value.numel(), device=codes.device) - codes.start[codes.row]
    value = codes.value.new_full((codes.rows, k), -torch.inf)
    value[codes.row, place] = codes.value
    whole = torch.stack(features.gather(value))
    least = whole.movedim(0, 1).flatten(1).topk(k, dim=1).values[:, -1:]
    left = k - (whole > least).sum(dim=(0, 2)) - (whole[: features.rank] == least).sum(dim=(0, 2))  # for ties here
    tied = value == least
    kept = (value > least) | (tied & (tied.cumsum(dim=1) <= left[:, None]))
    return codes.where(kept[codes.row, place])


def _first_of_all(codes: Codes, count: int) -> Codes:
    """Those among the largest so many entries of all ranks, given the largest so many of each."""
    ranks = current().everyone
    if ranks.size == 1:
        return codes
    values = ranks.gather(codes.value)
    whole = torch.cat(values)
    if whole.numel() <= count:
        return codes
    least = whole.kthvalue(whole.numel() - count + 1).values
    ties = count - int((whole > least).sum()) - sum(int((value == least).sum()) for value in values[: ranks.rank])
    kept = codes.value > least
    kept[(codes.value == least).nonzero().flatten()[: max(ties, 0)]] = True
    return codes.where(kept)


def _exact(codes: Codes, x: Tensor, W_enc: Tensor, b_enc: Tensor) -> Codes:
    """The same codes with values of full precision, without those that then turn out not to be positive."""
    with torch.autocast(x.device.type, enabled=False):
        value = entry_dots(codes, x.detach().float(), W_enc.detach().float().t())
        value += b_enc.detach().float()[codes.feature]
    codes, positive = codes.with_value(value), value > 0
    return codes if bool(positive.all()) else codes.where(positive)


def _blocks(x: Tensor, W_enc: Tensor) -> Iterator[Tensor]:
    """x W_enc, a few rows at a time, in autocast's bfloat16 where it is on, in float32 otherwise.

    Raises:
        SleaveError: there are NaN or infinite numbers in x, of which none would be among the largest.
    """
    if not bool(torch.isfinite(x.detach()).all()):
        raise SleaveError(
            "The activations hold NaN or infinite values. Check what they are read from, or leave those rows out."
        )
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
    with torch.autocast(device, enabled=False):
        weight = W_enc.detach().to(dtype)
        for rows in x.detach().to(dtype).split(rows_at_once(W_enc.shape[1])):
            product = rows @ weight
            yield product.float() if dtype == torch.float16 else product
