"""How many products a value of a layer's input takes part in."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Size, Tensor, nn

# per-sample input shape -> weights that each of its values meets: that are not zero, and all
Fanout = Callable[[nn.Module, Size], tuple[Tensor, Tensor]]


def linear_fanout(layer: nn.Module, shape: Size) -> tuple[Tensor, Tensor]:
    """Return the rows of weights that each feature meets: [in] of int64, twice."""
    del shape
    used = nonzero_weight(layer)
    return used.sum(0), torch.full_like(used[0], used.shape[0], dtype=torch.int64)


def conv_fanout(layer: nn.Module, shape: Size) -> tuple[Tensor, Tensor]:
    """Return the weights that each pixel meets, exact at the borders: [C, ...] of int64, twice.

    The number of products is linear in the input where all weights are ones, so that its gradient
    says what each pixel adds.
    """
    used = nonzero_weight(layer)
    return _conv_gradient(layer, used, shape), _conv_gradient(layer, torch.ones_like(used), shape)


def nonzero_weight(layer: Any) -> Tensor:
    """Return where a layer's weight (times its mask, if it has one) is not zero."""
    weight: Tensor = layer.weight.detach()
    mask = getattr(layer, "mask", None)
    return (weight * mask if isinstance(mask, Tensor) else weight) != 0


def _conv_gradient(layer: Any, used: Tensor, shape: Size) -> Tensor:
    convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[used.ndim - 3]
    with torch.enable_grad():
        pixels = used.new_zeros(1, *shape, dtype=torch.float64).requires_grad_()
        padded, padding = pixels, layer.padding
        if layer.padding_mode != "zeros":
            around = layer._reversed_padding_repeated_twice
            padded, padding = F.pad(pixels, around, mode=layer.padding_mode), 0
        products = convolve(
            padded, used.double(), None, layer.stride, padding, layer.dilation, layer.groups
        )
        (gradient,) = torch.autograd.grad(products.sum(), pixels)
    counted: Tensor = gradient[0].round().long()
    return counted


# a layer of one of these types is counted, the first that fits
CONNECTIONS: dict[type[nn.Module], tuple[Fanout, int]] = {
    nn.Linear: (linear_fanout, 1),
    nn.Conv1d: (conv_fanout, 2),
    nn.Conv2d: (conv_fanout, 3),
    nn.Conv3d: (conv_fanout, 4),
}


def count_as_connection(kind: type[nn.Module], like: type[nn.Module]) -> None:
    """Count layers of a type as those of another: `torch.nn.Linear` or a convolution.

    The layer has a `weight` of the same layout; a `mask` beside it, if there is one, is applied.

    Args:
        kind: The type.
        like: `torch.nn.Linear`, `Conv1d`, `Conv2d` or `Conv3d`.

    Raises:
        ValueError: `like` is none of those.

    Example:
        >>> class Masked(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.ones(2, 3))
        ...         self.mask = torch.eye(2, 3)
        ...     def forward(self, x):
        ...         return F.linear(x, self.weight * self.mask)
        >>> count_as_connection(Masked, nn.Linear)
    """
    if like not in CONNECTIONS:
        known = ", ".join(each.__name__ for each in CONNECTIONS)
        raise ValueError(f"like must be one of {known}, got {like}")
    CONNECTIONS[kind] = CONNECTIONS[like]


def connection_of(layer: nn.Module) -> tuple[Fanout, int] | None:
    """Return how a layer is counted and how many axes one sample of its input has, if it is."""
    if type(layer) in CONNECTIONS:
        return CONNECTIONS[type(layer)]
    return next((row for kind, row in CONNECTIONS.items() if isinstance(layer, kind)), None)
