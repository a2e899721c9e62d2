"""Layers for batches, at every step."""

from torch import Tensor, nn


class Stepwise(nn.Module):
    """Return what a layer for batches makes of every step: [T, B, ...] in, [T, B, ...] out.

    Torch's convolutions, pools and batch norms take [B, C, H, W], which has no axis of time. A norm
    takes its statistics over time and batch.

    Args:
        layer: A module that takes [B, ...], or a `torch.nn.Sequential` of several.

    Raises:
        TypeError: `layer` is no module.
        ValueError: An input has fewer than two axes.

    Example:
        >>> import torch
        >>> Stepwise(nn.AvgPool2d(2))(torch.ones(5, 3, 1, 4, 4)).shape
        torch.Size([5, 3, 1, 2, 2])
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        if not isinstance(layer, nn.Module):
            raise TypeError(f"layer must be a module, as nn.AvgPool2d(2), got {layer!r}")
        self.layer = layer

    def forward(self, input: Tensor) -> Tensor:
        """Return the output of the layer at every step."""
        if input.ndim < 2:
            raise ValueError(f"input must be [T, B, ...], got {tuple(input.shape)}")
        out: Tensor = self.layer(input.flatten(0, 1))
        return out.unflatten(0, input.shape[:2])
