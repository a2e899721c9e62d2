"""The products where no operator of this package can stand: ranks as a mask, torch's own products.

The operators have derivatives by autograd alone. Under the transforms of `torch.func` and in
forward mode all directions are multiplied, and what lies beyond the rank is left out.
"""

import torch
from torch import Tensor

from lowrank_kernels._library import define, in_forward_mode


@torch.compiler.assume_constant_result
def transformed() -> bool:
    """Tell whether a derivative of `torch.func` or in forward mode is at work.

    A graph is made for one answer: the compiler guards on what this reads.
    """
    levels = torch._C._functorch.get_interpreter_stack() or ()
    # for vmap the operators have rules
    other = any(level.key() != torch._C._functorch.TransformType.Vmap for level in levels)
    return other or in_forward_mode()


def leading(
    down: Tensor, up: Tensor, inner: Tensor | None, ranks: Tensor, *, trailing: int = 1
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the factors with zeros for the directions beyond each rank, whatever they hold.

    Args:
        down: `[..., R, *trailing axes]`.
        up: `[..., m, R]`.
        inner: `[..., R]` or None.
        ranks: `[]`, or one for each of the leading axes.
        trailing: how many axes of `down` lie behind that of the directions.
    """
    size = up.shape[-1]
    inside = within("ranks" if ranks.dim() else "rank", ranks, size).to(down.device)
    beyond = inside[..., None] <= torch.arange(size, device=down.device)
    down = down.masked_fill(beyond[(..., *(None,) * trailing)], 0.0)
    up = up.masked_fill(beyond.unsqueeze(-2), 0.0)
    return down, up, None if inner is None else inner.masked_fill(beyond, 0.0)


def within(name: str, ranks: Tensor, size: int) -> Tensor:
    """Return the ranks, checked as soon as they have values: now, or when the graph runs.

    A value outside of 0..size is a ValueError, in an exported program a RuntimeError, on a GPU
    what an assertion of the device is.
    """
    if not torch.compiler.is_exporting():
        return torch.ops.lowrank_kernels.within(ranks, size, name)
    # a program must run without this package; torch's assertion cannot be mapped
    if not torch._C._functorch.is_batchedtensor(ranks):
        _assert_within(ranks, size, name)
    return ranks


def _assert_within(ranks: Tensor, size: int, name: str) -> None:
    inside = ((ranks >= 0) & (ranks <= size)).all()
    torch._assert_async(inside, f"{name} must be in 0..{size}")


def _within(ranks: Tensor, size: int, name: str) -> Tensor:
    if ranks.device.type != "cpu":  # the host does not wait, and a CUDA graph can be recorded
        _assert_within(ranks, size, name)
    elif ranks.numel():
        low, high = (int(v) for v in ranks.aminmax())
        if low < 0 or high > size:
            raise ValueError(f"{name} must be in 0..{size}, got {low if low < 0 else high}")
    return ranks.clone()


def _within_vmap(info: object, in_dims: tuple[int, ...], *args: object) -> tuple[Tensor, int]:
    return torch.ops.lowrank_kernels.within(*args), in_dims[0]


define(
    "within(Tensor ranks, SymInt size, str name) -> Tensor",
    _within,
    fake=lambda ranks, size, name: torch.empty_like(ranks),
    vmap=_within_vmap,
)
