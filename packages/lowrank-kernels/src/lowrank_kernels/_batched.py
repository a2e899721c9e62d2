"""The low-rank linear product of several layers of one shape."""

from math import isfinite
from typing import Literal

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn.functional import linear

from lowrank_kernels import _checks
from lowrank_kernels._autocast import autocast_dtype, cast
from lowrank_kernels._linear import triton_kernels
from lowrank_kernels._transforms import leading

# what a layer of its own costs in calls, in multiplications of one thread of a processor
_WORTH = 400_000


def lowrank_linear_batched(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    ranks: Tensor | None = None,
    *,
    inner_bias: Tensor | None = None,
    implementation: Literal["torch", "triton"] | None = None,
) -> Tensor:
    """Return the products of L layers of one shape, each with its own input and rank.

    `y_l = (x_l @ down_l[:r_l].T + inner_bias_l[:r_l]) @ up_l[:, :r_l].T + bias_l`. Small layers
    cost more in calls than in arithmetic; here they share them: one batched product for each
    factor where all ranks are equal, on a GPU one launch for few rows and two for many
    (`implementation="triton"`). Layers of different ranks share them too, up to the largest rank,
    unless what that adds to a layer is more than calls of its own.

    In a graph of `torch.compile` or `torch.export` and under `torch.vmap` the ranks are a mask:
    one graph serves them all, at the cost of R. Ranks out of range are refused when it runs, in an
    exported program by a RuntimeError; on a GPU by an assertion of the device.

    Args:
        x: inputs `[L, ..., n]`; float64, float32, float16 or bfloat16.
        down: first factors `[L, R, n]`, of the same dtype and device; any strides.
        up: second factors `[L, m, R]`, likewise.
        bias: `[L, m]` or None.
        ranks: integers 0..R, `[L]`, or one for all layers, `[]`; None is R.
        inner_bias: `[L, R]` or None, added between the factors.
        implementation: `"triton"` for the Triton kernels (CUDA tensors; ranks are put into 0..R
            and never read by the host); `"torch"` and None for torch's own products.

    Returns:
        `[L, ..., m]`, of the dtype of `x`, or of autocast where that is on.

    Raises:
        ValueError: a shape, device, rank or implementation breaks the rules above.
        TypeError: a dtype or type does.
        ModuleNotFoundError: `implementation="triton"` without triton installed.

    Example:
        >>> import torch
        >>> x, down, up = torch.ones(2, 1, 3), torch.ones(2, 4, 3), torch.ones(2, 1, 4)
        >>> lowrank_linear_batched(x, down, up, ranks=torch.tensor([1, 4])).flatten()
        tensor([ 3., 12.])
    """
    if implementation not in (None, "torch", "triton"):
        raise ValueError(
            f"implementation must be 'torch', 'triton' or None, got {implementation!r}"
        )
    _checks.check_batched(x, down, up, bias, inner_bias)
    if ranks is not None:
        _checks.check_ranks(ranks, x.shape[:1], is_meta=x.is_meta)
    dtype = autocast_dtype(x)
    rows = cast(x.reshape(x.shape[0], -1, x.shape[-1]) if x.numel() else _no_rows(x), dtype)
    down, up = cast(down, dtype), cast(up, dtype)
    bias = None if bias is None else cast(bias, dtype)
    inner = None if inner_bias is None else cast(inner_bias, dtype)
    if implementation == "triton":
        kernels = triton_kernels("_linear_triton")
        y: Tensor = kernels.linear_batched(rows, down, up, bias, ranks, inner)
    else:
        y = _product(rows, down, up, bias, inner, ranks)
    return y.reshape(*x.shape[:-1], up.shape[1])


def _no_rows(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], x.shape[1:-1].numel(), x.shape[-1])


def _product(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    inner: Tensor | None,
    ranks: Tensor | None,
) -> Tensor:
    R = down.shape[1]
    if ranks is None:
        return _together(x, down, up, bias, inner, R)
    if x.is_meta or is_compiling() or torch._C._functorch.maybe_current_level() is not None:
        return _masked(x, down, up, bias, inner, ranks)
    values = [_within(r, R) for r in ranks.expand(x.shape[0]).tolist()]
    if len(set(values)) <= 1:
        return _together(x, down, up, bias, inner, values[0] if values else R)
    top = max(values)
    wasted = x.shape[1] * (down.shape[2] + up.shape[1]) * (top - sum(values) / len(values))
    if wasted < _WORTH:
        y = _ended(x, down[:, :top], up[:, :, :top], bias, inner, ranks)
        # zeros are exact unless they meet infinity or nan, which would show
        if _finite(y) and (not y.requires_grad or _finite(down[:, :top])):
            return y
    return torch.stack([_one(i, x, down, up, bias, inner, r) for i, r in enumerate(values)])


def _finite(t: Tensor) -> bool:
    return isfinite(t.detach().sum(dtype=torch.float64))


def _within(r: int, R: int) -> int:
    if not 0 <= r <= R:
        raise ValueError(f"ranks must be in 0..{R}, got {r}")
    return r


def _one(
    i: int,
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    inner: Tensor | None,
    r: int,
) -> Tensor:
    """Return the product of layer i at rank r."""
    h = linear(x[i], down[i, :r], None if inner is None else inner[i, :r])
    return linear(h, up[i, :, :r], None if bias is None else bias[i])


def _together(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    inner: Tensor | None,
    r: int,
) -> Tensor:
    """Return the products of all layers at rank r."""
    h = _batch(x, down[:, :r], None if inner is None else inner[:, :r])
    return _batch(h, up[:, :, :r], bias)


def _batch(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    return torch.bmm(x, w.mT) if bias is None else torch.baddbmm(bias[:, None], x, w.mT)


def _ended(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    inner: Tensor | None,
    ranks: Tensor,
) -> Tensor:
    """Return the products of all layers together, with zeros from each layer's rank on."""
    top = down.shape[1]
    h = _batch(x, down, None if inner is None else inner[:, :top])
    beyond = ranks.to(x.device).expand(x.shape[0])[:, None] <= torch.arange(top, device=x.device)
    return _batch(h.masked_fill(beyond[:, None], 0.0), up, bias)


def _masked(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    inner: Tensor | None,
    ranks: Tensor,
) -> Tensor:
    """Return the products with zeros for the directions beyond each rank, whatever they hold."""
    D, U, b = leading(down, up, inner, ranks)
    return _together(x, D, U, bias, b, down.shape[1])
