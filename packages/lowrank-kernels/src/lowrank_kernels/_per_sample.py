"""The low-rank linear product with a rank for each sample."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear

from lowrank_kernels import _checks
from lowrank_kernels._autocast import autocast_dtype, cast
from lowrank_kernels._forms import MASKED, STAIRCASE
from lowrank_kernels._linear import triton_kernels
from lowrank_kernels._per_sample_op import staircase
from lowrank_kernels._prefix import PLAIN
from lowrank_kernels._transforms import transformed, within


def lowrank_linear_per_sample(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    ranks: Tensor | None = None,
    *,
    inner_bias: Tensor | None = None,
    implementation: Literal["torch", "staircase", "masked", "triton"] | None = None,
) -> Tensor:
    """Return the product of each sample with as many directions as its rank says.

    `y_i = up[:, :r_i] @ (down[:r_i] @ x_i + inner_bias[:r_i]) + bias`. Rows are sorted by rank,
    and products are taken of bands of ranks with the rows that reach them: the work follows
    `2·(n + m)·Σ r_i` FLOPs up to the width of a band, a few matrix products in all. What a row
    gets depends on its own rank alone, even where another row's directions hold nan; only the
    first r_i directions get a gradient from row i.

    The ranks are read when the product runs: under `torch.compile` one graph serves them all. A
    program of `torch.export`, and derivatives by `torch.func` or in forward mode, multiply all rows
    at R and leave out what is beyond each rank. Ranks out of range are refused when they are read:
    by a ValueError, in an exported program by a RuntimeError.

    Args:
        x: inputs `[*batch, ..., n]`; float64, float32, float16 or bfloat16.
        down: first factor `[R, n]`, of the same dtype and device; any strides.
        up: second factor `[m, R]`, likewise.
        bias: `[m]` or None.
        ranks: integers 0..R of shape `[*batch]`: as many of the leading axes of x as it has, all
            rows beneath share one rank. None is R.
        inner_bias: `[R]` or None, added between the factors.
        implementation: `"staircase"`, `"torch"` and None for bands of torch's own products, which
            read the ranks on the host. `"masked"` for one pair of products at the largest rank:
            as fast where ranks are much alike or rows few (`dispatch_per_sample` chooses).
            `"triton"` for the Triton kernels: CUDA tensors, first derivatives; the ranks are put
            into 0..R and never read by the host. In the last two, infinity or nan in a direction
            of `up` comes through to rows that do not reach it, where another row does.

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
    elif torch.compiler.is_exporting() or transformed():
        y = _masked(rows, down, up, bias, inner, each)
    elif implementation == MASKED:
        y = _masked_to_the_largest(rows, down, up, bias, inner, each)
    elif implementation in (None, "torch", STAIRCASE):
        product = staircase if _unwatched(rows, down, up, bias, inner, each) else _operator
        y = product(rows, down, up, bias, inner, each)
    else:
        raise ValueError(
            "implementation must be 'torch', 'staircase', 'masked', 'triton' or None, "
            f"got {implementation!r}"
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


_operator = torch.ops.lowrank_kernels.linear_per_sample


def _unwatched(*tensors: Tensor | None) -> bool:
    """Tell whether nothing looks at the product: then an operator would only take longer."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._functorch.maybe_current_level() is None
        and all(t is None or (type(t) in PLAIN and not t.is_meta) for t in tensors)
        and not (
            torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
        )
    )


def _masked_to_the_largest(
    x: Tensor, down: Tensor, up: Tensor, bias: Tensor | None, inner: Tensor | None, ranks: Tensor
) -> Tensor:
    """Return the product at the cost of the largest rank there is; in a graph, of R."""
    if torch.compiler.is_compiling() or x.is_meta or not x.shape[0] or mapped(ranks):
        return _masked(x, down, up, bias, inner, ranks)
    low, top = (int(r) for r in ranks.aminmax())
    size = down.shape[0]
    if low < 0 or top > size:
        raise ValueError(f"ranks must be in 0..{size}, got {low if low < 0 else top}")
    h = linear(x, down[:top], None if inner is None else inner[:top])
    if low < top:
        columns = torch.arange(top, device=x.device)
        h = h.masked_fill(ranks.to(x.device)[:, None] <= columns, 0.0)
    return linear(h, up[:, :top], bias)


def mapped(ranks: Tensor) -> bool:
    """Tell whether `vmap` hides the values."""
    return torch._C._functorch.is_batchedtensor(ranks)


def _masked(
    x: Tensor, down: Tensor, up: Tensor, bias: Tensor | None, inner: Tensor | None, ranks: Tensor
) -> Tensor:
    """Return the product in torch's own operators, at the cost of the largest rank."""
    inside = within("ranks", ranks, down.shape[0]).to(x.device)
    beyond = inside[:, None] <= torch.arange(down.shape[0], device=x.device)
    return linear(linear(x, down, inner).masked_fill(beyond, 0.0), up, bias)
