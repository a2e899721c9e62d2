"""The low-rank linear product."""

from importlib import import_module
from typing import Any, Literal

from torch import Tensor, addmm, mm
from torch.compiler import is_compiling
from torch.nn.functional import linear

from lowrank_kernels import _checks
from lowrank_kernels._activation import Activation, activate, check_activation
from lowrank_kernels._linear_op import linear_at
from lowrank_kernels._prefix import transposed
from lowrank_kernels._traced import traced_rank
from lowrank_kernels._types import Rank


def lowrank_linear(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    rank: Rank = None,
    *,
    inner_bias: Tensor | None = None,
    activation: Activation | None = None,
    implementation: Literal["torch", "triton"] | None = None,
) -> Tensor:
    """Return the product of `x` with the first `rank` directions of a factored weight.

    `y = x @ down[:r].T @ up[:, :r].T + bias`, which is `x @ W_r.T + bias` for the weight
    `W_r = up[:, :r] @ down[:r]` that is never formed. With an inner bias b it is
    `(x @ down[:r].T + b[:r]) @ up[:, :r].T + bias`: two affine maps, one after the other.

    It costs `2·N·r·(n + m)` FLOPs for N rows; only the first r rows of `down` and columns of `up`
    are read, and only they get a gradient, the others get exact zeros.

    Under `torch.compile` and `torch.export` a rank in a 0-dim integer tensor is read when the
    graph runs: one graph serves every rank. An int is a constant of the graph or a symbolic
    size, as the compiler decides.

    Args:
        x: inputs `[..., n]`, any leading axes; float64, float32, float16 or bfloat16.
        down: first factor `[R, n]`, of the same dtype and device; any strides.
        up: second factor `[m, R]`, likewise.
        bias: `[m]` or None.
        rank: r in 0..R as an int or a 0-dim integer tensor; None is R, 0 leaves the bias alone.
            A tensor on a GPU is copied to the host at each call: keep it on the CPU, except for
            the Triton kernels, which read it on the device and put it into 0..R.
        inner_bias: `[R]` or None, added between the factors.
        activation: `"relu"`, `"gelu"` (by erf) or `"silu"` of the result; None leaves it. The
            Triton kernels apply it before they store.
        implementation: `"triton"` for the Triton kernels (CUDA tensors); `"torch"` and None for
            torch's own products.

    Returns:
        `[..., m]`, of the dtype of `x`, or of autocast where that is on.

    Raises:
        ValueError: a shape, device, rank, activation or implementation breaks the rules above.
        TypeError: a dtype or type does.
        ModuleNotFoundError: `implementation="triton"` without triton installed.

    Example:
        >>> import torch
        >>> x, down, up = torch.ones(2, 3), torch.ones(4, 3), torch.ones(5, 4)
        >>> lowrank_linear(x, down, up, rank=2).shape
        torch.Size([2, 5])
        >>> lowrank_linear(x, down, up, rank=2)[0, 0].item()
        6.0
    """
    if implementation is not None or activation is not None or is_compiling():
        return _chosen(x, down, up, bias, rank, inner_bias, activation, implementation)
    try:
        size, _ = down.shape
        m, width = up.shape
        if rank.__class__ is int:
            r: int = rank
        else:
            r = size if rank is None else _checks.rank_value(rank, size)
        if (
            width == size
            and 0 <= r <= size
            and x.is_floating_point()
            and (bias is None or (bias.shape == (m,) and bias.is_meta is x.is_meta))
            and (inner_bias is None or inner_bias.shape == (size,))
            # torch takes tensors without numbers for ones with any
            and down.is_meta is up.is_meta is x.is_meta
        ):
            if x.dim() == 2:
                # the products that F.linear ends in, without its own transpositions
                D, U = transposed(down, up, r)
                h = mm(x, D) if inner_bias is None else addmm(inner_bias[:r], x, D)
                return mm(h, U) if bias is None else addmm(bias, h, U)
            inner = None if inner_bias is None else inner_bias[:r]
            return linear(linear(x, down[:r], inner), up[:, :r], bias)
    except (RuntimeError, ValueError, TypeError, AttributeError):
        _refuse(x, down, up, bias, rank, inner_bias)
        raise
    _refuse(x, down, up, bias, rank, inner_bias)
    raise AssertionError("a refused product that breaks no rule")


def _refuse(x: object, down: Tensor, up: object, bias: object, rank: object, inner: object) -> None:
    _checks.check_linear(x, down, up, bias, inner)
    _checks.rank_value(rank, down.shape[0])


def _chosen(
    x: Tensor,
    down: Tensor,
    up: Tensor,
    bias: Tensor | None,
    rank: Rank,
    inner: Tensor | None,
    activation: str | None,
    implementation: str | None,
) -> Tensor:
    """Return the product in a graph, with what follows it, or as it was asked for."""
    if implementation not in (None, "torch", "triton"):
        raise ValueError(
            f"implementation must be 'torch', 'triton' or None, got {implementation!r}"
        )
    check_activation(activation)
    _checks.check_linear(x, down, up, bias, inner)
    if implementation == "triton":
        where = _launched(rank, down.shape[0], x)
        return triton_kernels("_linear_triton").linear(x, down, up, bias, where, inner, activation)
    if not is_compiling():
        return activate(lowrank_linear(x, down, up, bias, rank, inner_bias=inner), activation)
    r = traced_rank(rank, down.shape[0])
    if isinstance(r, Tensor):
        return activate(linear_at(x, down, up, bias, r, inner), activation)
    h = linear(x, down[:r], None if inner is None else inner[:r])
    return activate(linear(h, up[:, :r], bias), activation)


def _launched(rank: Rank, size: int, x: Tensor) -> int | Tensor:
    """Return the rank as an int, or as the tensor on the device of x that kernels read."""
    if not isinstance(rank, Tensor) or rank.device != x.device:
        return _checks.rank_value(rank, size)
    _checks.check_rank_tensor(rank)
    return rank


def triton_kernels(module: str) -> Any:
    """Return a module of kernels; raise ModuleNotFoundError naming the extra they need."""
    try:
        return import_module(f"lowrank_kernels.{module}")
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise ModuleNotFoundError(
            "implementation 'triton' needs triton: pip install 'lowrank-kernels[triton]'",
            name="triton",
        ) from error
