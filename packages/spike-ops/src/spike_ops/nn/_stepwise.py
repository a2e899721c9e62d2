"""Layers for batches, at every step."""

from torch import Tensor, nn

from spike_ops.neuron import PSN, BaseNode, Neuron, SlidingPSN
from spike_ops.nn._norms import TimeBatchNorm

# what has to see time itself
OVER_TIME = (Neuron, PSN, SlidingPSN, TimeBatchNorm)


class Stepwise(nn.Module):
    """Return what a layer for batches makes of every step: [T, B, ...] in, [T, B, ...] out.

    Torch's convolutions, pools and batch norms take [B, C, H, W], which has no axis of time. A norm
    takes its statistics over time and batch. Neurons take time themselves: they stand behind it.

    Args:
        layer: A module that takes [B, ...] and keeps B, or a `torch.nn.Sequential` of several.

    Raises:
        TypeError: `layer` is no module.
        ValueError: `layer` has neurons or norms over time in it (nodes of T steps a call may be),
            an input has fewer than two axes, or the layer returns no [T B, ...].

    Example:
        >>> import torch
        >>> Stepwise(nn.AvgPool2d(2))(torch.ones(5, 3, 1, 4, 4)).shape
        torch.Size([5, 3, 1, 2, 2])
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        if not isinstance(layer, nn.Module):
            raise TypeError(f"layer must be a module, as nn.AvgPool2d(2), got {layer!r}")
        for each in layer.modules():
            takes_steps = isinstance(each, BaseNode) and each.T > 1
            if isinstance(each, OVER_TIME) and not takes_steps:
                got = f"{type(each).__name__}, which stands behind Stepwise, not in it"
                raise ValueError(f"layer must treat every step alike, got {got}")
        self.layer = layer

    def forward(self, input: Tensor) -> Tensor:
        """Return the output of the layer at every step."""
        if input.ndim < 2:
            raise ValueError(f"input must be [T, B, ...], got {tuple(input.shape)}")
        flat = input.flatten(0, 1)
        out: Tensor = self.layer(flat)
        if not isinstance(out, Tensor) or not out.ndim or len(out) != len(flat):
            made = f"{tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            rule = f"layer must return [B, ...] of [B, ...], and {type(self.layer).__name__}"
            raise ValueError(f"{rule} makes {made} of {tuple(flat.shape)}")
        return out.unflatten(0, input.shape[:2])
