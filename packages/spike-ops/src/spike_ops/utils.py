"""Small helpers under the names that scripts for spiking networks use."""

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["reset", "make_tuple"]


def reset(net: nn.Module) -> None:
    """Have every module of a network that has a `reset()` forget its state: neurons, traces.

    Args:
        net: A network or a neuron.

    Raises:
        TypeError: It is no module.

    Example:
        >>> import torch
        >>> from spike_ops.neuron import LIFNode
        >>> net = nn.Sequential(nn.Linear(3, 2), LIFNode())
        >>> out = net(torch.randn(4, 3))
        >>> reset(net)
        >>> net[1].v
        0.0
    """
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a torch.nn.Module, got {type(net).__name__}")
    for module in net.modules():
        if callable(forget := getattr(module, "reset", None)):
            forget()


def make_tuple(x: int | Sequence[int] | Tensor, ndim: int, name: str) -> tuple[int, ...]:
    """Return n whole numbers: one number n times, or the n that were given.

    Args:
        x: A number, a sequence or a tensor of them.
        ndim: n.
        name: What an error calls it.

    Raises:
        ValueError: There are not n, or one is no whole number.

    Example:
        >>> import torch
        >>> make_tuple(3, 2, "kernel_size"), make_tuple([1, 2], 2, "stride")
        ((3, 3), (1, 2))
    """
    given = x.flatten().tolist() if isinstance(x, Tensor) else x
    if isinstance(given, int):
        return (given,) * ndim
    held = tuple(given) if isinstance(given, Sequence) else (given,)
    if len(held) != ndim or any(isinstance(n, bool) or not isinstance(n, int) for n in held):
        raise ValueError(f"{name} must be a whole number or {ndim} of them, got {x!r}")
    return held
