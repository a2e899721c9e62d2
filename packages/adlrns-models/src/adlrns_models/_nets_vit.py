"""A vision transformer for small images."""

from typing import Any

import torch
from torch import Tensor, nn

from adlrns_models._checks import check_int
from adlrns_models._nets_attention import TransformerBlock
from adlrns_models._nets_layers import Layers


class ViT(nn.Module):
    """Images ``[B, channels, size, size]`` to scores ``[B, classes]``.

    Patches become rows, positions are learned, the mean of the rows goes to the head (Dosovitskiy
    et al. 2021; mean instead of a class token as in Beyer et al. 2022). Patch embedding and head
    are dense.
    """

    def __init__(
        self,
        image_size: int,
        patch: int,
        channels: int,
        classes: int,
        width: int,
        blocks: list[nn.Module],
    ):
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn((image_size // patch) ** 2, width))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns scores ``[B, classes]``."""
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def adlrns_vit(
    *,
    image_size: int = 32,
    patch: int = 4,
    channels: int = 3,
    classes: int = 10,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
    dense: bool = False,
    **layer_options: Any,
) -> ViT:
    """Returns a vision transformer whose attention and MLP layers are dynamic.

    Args:
        image_size: height and width of the images.
        patch: height and width of a patch; divides ``image_size``.
        channels: of the images.
        classes: scores given.
        width: of the rows, a multiple of ``heads``.
        depth: blocks.
        heads: of the attention.
        dropout: of what each half of a block adds.
        dense: plain layers in place of dynamic ones, the baseline.
        layer_options: ``r_max``, ``r_min``, ``gate`` and the other keywords of ``DynamicLinear``.

    Raises:
        ValueError, TypeError: for sizes that cannot be, or options that layers do not take.

    Example:
        >>> import torch
        >>> from adlrns_models import adlrns_vit
        >>> net = adlrns_vit(image_size=8, patch=2, channels=1, width=32, depth=2)
        >>> net(torch.randn(3, 1, 8, 8)).shape
        torch.Size([3, 10])
    """
    sizes = {"channels": channels, "classes": classes, "width": width}
    for name, value in {**sizes, "patch": patch, "depth": depth, "heads": heads}.items():
        check_int(name, value, 1)
    if check_int("image_size", image_size, 1) % patch:
        raise ValueError(f"image_size must be a multiple of patch ({patch}), got {image_size}")
    layers = Layers(dense=dense, **layer_options)
    blocks = [TransformerBlock(width, heads, layers, dropout=dropout) for _ in range(depth)]
    return ViT(image_size, patch, channels, classes, width, list(blocks))
