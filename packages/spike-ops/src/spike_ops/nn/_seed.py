"""Norms under the names and arguments that spiking layers go by."""

from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """Return currents [T, B, C, H, W] or [B, C, H, W] normalised per channel.

    Mean and variance are those of all other axes, time among them; the running ones follow with
    `momentum`, the weight of the new value, as torch's do.

    Args:
        dim: Channels.
        momentum: Weight of a batch in the running statistics.
        eps: Added to the variance.

    Raises:
        ValueError: The input does not have four or five axes, or other channels.

    Example:
        >>> import torch
        >>> BatchNorm2d(3)(torch.randn(4, 2, 3, 5, 5)).shape
        torch.Size([4, 2, 3, 5, 5])
    """

    def __init__(self, dim: int, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__(dim, eps=eps, momentum=momentum)

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised currents."""
        if input.ndim not in {4, 5}:
            got = tuple(input.shape)
            raise ValueError(f"input must be [T, B, C, H, W] or [B, C, H, W], got {got}")
        if input.shape[-3] != self.num_features:
            channels = f"{input.shape[-3]} of {tuple(input.shape)}"
            raise ValueError(f"input must have {self.num_features} channels, got {channels}")
        normal: Tensor = super().forward(input.flatten(0, -4))
        return normal.view(input.shape)


class LayerNorm(nn.LayerNorm):
    """Return currents [..., N] normalised over their features.

    Args:
        num_features: N.
        eps: Added to the variance.

    Example:
        >>> import torch
        >>> LayerNorm(6)(torch.randn(4, 2, 6)).shape
        torch.Size([4, 2, 6])
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps)
