"""A residual convolutional net for small images."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from adlrns_models._checks import check_int
from adlrns_models._nets_layers import Layers

_GROUPS = 8


class ResidualBlock(nn.Module):
    """``relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))`` (He et al. 2016, figure 2).

    Groups are normalised within each image (Wu & He 2018): running statistics of a batch norm
    would be those of some mixture of ranks, and wrong at each.
    """

    def __init__(self, width: int, out: int, stride: int, layers: Layers):
        super().__init__()
        self.conv1, self.norm1 = layers.conv(width, out, stride), nn.GroupNorm(_GROUPS, out)
        self.conv2, self.norm2 = layers.conv(out, out), nn.GroupNorm(_GROUPS, out)
        same = width == out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(width, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``[B, out, h / stride, w / stride]``."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """Images ``[B, channels, h, w]`` to scores ``[B, classes]``.

    Stages of residual blocks, each stage half as large and twice as wide as the one before; the
    mean over positions goes to the head. Stem, shortcuts and head are dense: they are small.
    """

    def __init__(
        self, channels: int, classes: int, width: int, blocks: Sequence[int], layers: Layers
    ):
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.blocks = nn.ModuleList()
        at = width
        for stage, count in enumerate(blocks):
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                self.blocks.append(ResidualBlock(at, width << stage, stride, layers))
                at = width << stage
        self.head = nn.Linear(at, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns scores ``[B, classes]``."""
        x = F.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def adlrns_resnet(
    *,
    channels: int = 3,
    classes: int = 10,
    width: int = 16,
    blocks: Sequence[int] = (2, 2, 2),
    dense: bool = False,
    **layer_options: Any,
) -> ResNet:
    """Returns a residual net whose convolutions of 3 x 3 are dynamic.

    Args:
        channels: of the images, of any size.
        classes: scores given.
        width: channels of the first stage, a multiple of 8.
        blocks: how many blocks each stage has.
        dense: plain layers in their place, the baseline.
        layer_options: ``r_max``, ``r_min``, ``gate`` and the other keywords of ``DynamicConv2d``.

    Raises:
        ValueError, TypeError: for sizes that cannot be, or options that layers do not take.

    Example:
        >>> import torch
        >>> from adlrns_models import adlrns_resnet
        >>> adlrns_resnet(channels=1, blocks=[1, 1])(torch.randn(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    check_int("channels", channels, 1)
    check_int("classes", classes, 1)
    if check_int("width", width, _GROUPS) % _GROUPS:
        raise ValueError(f"width must be a multiple of {_GROUPS}, got {width}")
    if not blocks:
        raise ValueError("blocks must name at least one stage, got none")
    for count in blocks:
        check_int("blocks", count, 1)
    return ResNet(channels, classes, width, blocks, Layers(dense=dense, **layer_options))
