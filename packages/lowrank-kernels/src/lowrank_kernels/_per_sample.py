"""The low-rank linear product with a rank for each sample."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from lowrank_kernels import _checks
from lowrank_kernels._autocast import autocast_dtype, cast
from lowrank_kernels._linear import triton_kernels
from lowrank_kernels._per_sample_op import _ops


def lowrank_linear_per_sample(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    ranks: Tensor | None = None,
    *,
    inner_bias: Tensor | None = None,
    implementation: Literal["torch", "triton"] | None = None,
) -> Tensor:
    """Return the product of each sample with as many directions as its rank says.

    `y_i = up[:, :r_i] @ (down[:r_i] @ x_i + inner_bias[:r_i]) + bias`. Rows are sorted by rank,
    and products are taken of bands of ranks with the rows that reach them: the work follows
    `2·(n + m)·Σ r_i` FLOPs up to the width of a band, a few matrix products in all. What a row
    gets depends on its own rank alone, even where another row's directions hold nan; only the
    first r_i directions get a gradient from row i.

    The ranks are read when the product runs: under `torch.compile` one graph serves them all. A
    program of `torch.export`, and derivatives by `torch.func` or in forward mode, multiply all rows
    at R and leave out what is beyond each rank.

    Args:
        x: inputs `[*batch, ..., n]`; float64, float32, float16 or bfloat16.
        down: first factor `[R, n]`, of the same dtype and device; any strides.
        up: second factor `[m, R]`, likewise.
        bias: `[m]` or None.
        ranks: integers 0..R of shape `[*batch]`: as many of the leading axes of x as it has, all
            rows beneath share one rank. None is R.
        inner_bias: `[R]` or None, added between the factors.
        implementation: `"triton"` for the Triton kernels: CUDA tensors, first derivatives; the
            ranks are put into 0..R and never read by the host. Where another row of the tile
            reaches a direction of `up`, infinity or nan in it comes through. `"torch"` and None
            for torch's own products, which read the ranks on the host.

    Returns:
        `[*batch, ..., m]`, of the dtype of `x`, or of autocast where that is on.

    Raises:
        ValueError: a shape, device, rank or implementation breaks the rules above.
        TypeError: a dtype or type does.
        ModuleNotFoundError: `implementation="triton"` without triton installed.

    Example:
        >>> import torch
        >>> x, down, up = torch.ones(3, 2), torch.ones(4, 2), torch.ones(1, 4)
        >>> lowrank_linear_per_sample(x, down, up, ranks=torch.tensor([0, 1, 4])).flatten()
        tensor([0., 2., 8.])
    """
    _checks.check_linear(x, down, up, bias, inner_bias)
    rows = x[None] if x.dim() == 1 else x.flatten(0, -2)
    each = _ranks(ranks, x, down.shape[0])
    dtype = autocast_dtype(x)
    rows, down, up = cast(rows, dtype), cast(down, dtype), cast(up, dtype)
    bias = None if bias is None else cast(bias, dtype)
    inner = None if inner_bias is None else cast(inner_bias, dtype)
    if implementation == "triton":
        kernels = triton_kernels("_per_sample_triton")
        y = kernels.linear_per_sample(rows, down, up, bias, inner, each)
    elif torch.compiler.is_exporting() or _transformed():
        y = _masked(rows, down, up, bias, inner, each)
    elif implementation in (None, "torch"):
        y = _ops.linear_per_sample(rows, down, up, bias, inner, each)
    else:
        raise ValueError(
            f"implementation must be 'torch', 'triton' or None, got {implementation!r}"
        )
    return y.reshape(*x.shape[:-1], up.shape[0])


def _ranks(ranks: object, x: Tensor, size: int) -> Tensor:
    """Return one rank for each row, `[N]`."""
    lead = x.shape[:-1]
    if ranks is None:
        return torch.full((lead.numel(),), size, device=x.device)
    _checks.check_ranks(ranks, lead, is_meta=x.is_meta)
    assert isinstance(ranks, Tensor)
    beneath = (None,) * (len(lead) - ranks.dim())
    return ranks[(..., *beneath)].expand(lead).reshape(-1)


def _transformed() -> bool:
    """Tell whether a derivative of `torch.func` or in forward mode is at work."""
    if torch.compiler.is_compiling():
        return False
    if torch.autograd.forward_ad._current_level >= 0:
        return True
    # operators of this package have a rule for vmap, and derivatives by autograd alone
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() != torch._C._functorch.TransformType.Vmap for level in levels)


def _masked(
    x: Tensor, down: Tensor, up: Tensor, bias: Tensor | None, inner: Tensor | None, ranks: Tensor
) -> Tensor:
    """Return the product in torch's own operators, at the cost of the largest rank."""
    columns = torch.arange(down.shape[0], device=x.device)
    h = linear(x, down, inner)
    return linear(h.masked_fill(ranks.to(x.device)[:, None] <= columns, 0.0), up, bias)
