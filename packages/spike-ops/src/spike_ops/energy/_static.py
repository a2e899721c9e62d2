"""What a network takes up, running or not."""

import torch
from torch import nn

from spike_ops.energy._connections import connection_of, nonzero_weight


def parameter_count(net: nn.Module) -> int:
    """Return the number of parameters.

    Example:
        >>> parameter_count(nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in net.parameters())


def footprint(net: nn.Module) -> int:
    """Return the bytes of parameters and buffers.

    Example:
        >>> footprint(nn.Linear(3, 2))
        32
    """
    held = [*net.parameters(), *net.buffers()]
    return sum(each.numel() * each.element_size() for each in held)


def connection_sparsity(net: nn.Module) -> float:
    """Return the share of zeros among the weights of connection layers; biases are left out.

    Raises:
        ValueError: There are no connection layers.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.eye(2))
        >>> connection_sparsity(layer)
        0.5
    """
    layers = [module for module in net.modules() if connection_of(module) is not None]
    used = [nonzero_weight(layer) for layer in layers]
    total = sum(each.numel() for each in used)
    if not total:
        raise ValueError(f"net must have connection layers, got {type(net).__name__} with none")
    return 1 - sum(int(torch.count_nonzero(each)) for each in used) / total
