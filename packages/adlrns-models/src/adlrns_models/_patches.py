"""The patches a convolution sees, a few at a time."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """How a convolution's kernel moves over its input.

    Attributes:
        size: kernel height and width.
        stride: of the kernel.
        padding: left, right, top, bottom, as ``torch.nn.functional.pad`` takes it.
        dilation: of the kernel.
        mode: ``"zeros"`` or a mode of ``torch.nn.functional.pad``.
    """

    size: Pair
    stride: Pair
    padding: tuple[int, int, int, int]
    dilation: Pair
    mode: str

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "Window":
        """Returns the window of ``conv``, string paddings resolved."""
        left, right, top, bottom = conv._reversed_padding_repeated_twice
        return cls(
            size=_pair(conv.kernel_size),
            stride=_pair(conv.stride),
            padding=(left, right, top, bottom),
            dilation=_pair(conv.dilation),
            mode=conv.padding_mode,
        )

    @property
    def _symmetric_zeros(self) -> bool:
        left, right, top, bottom = self.padding
        return self.mode == "zeros" and left == right and top == bottom

    def arguments(self) -> dict[str, Any]:
        """Returns stride, padding and dilation of the convolution of a :meth:`pad`-ded input."""
        padding = (self.padding[2], self.padding[0]) if self._symmetric_zeros else (0, 0)
        return {"stride": self.stride, "padding": padding, "dilation": self.dilation}

    def pad(self, x: Tensor) -> Tensor:
        """Returns ``x`` with the padding that the convolution itself cannot do."""
        return x if self._symmetric_zeros else self._pad_fully(x)

    def count(self, x: Tensor) -> int:
        """Returns how many patches a batch ``[N, c, H, W]`` or image ``[c, H, W]`` has."""
        height, width = self._grid(x)
        return (x.shape[0] if x.ndim == 4 else 1) * height * width

    def fits(self, x: Tensor) -> bool:
        """Returns whether the padded input is at least as large as the kernel."""
        return min(self._grid(x)) >= 1

    def patches(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Returns the patches ``[k, c * kh * kw]`` with the given numbers, image by image.

        Only the images that are asked for are padded, and only the patches are copied.
        """
        x = x if x.ndim == 4 else x[None]
        height, width = self._grid(x)
        numbers = numbers.to(x.device)
        images, where = torch.unique(numbers // (height * width), return_inverse=True)
        padded = self._pad_fully(x[images])
        row, column = numbers // width % height * self.stride[0], numbers % width * self.stride[1]
        rows = row[:, None] + torch.arange(self.size[0], device=x.device) * self.dilation[0]
        columns = column[:, None] + torch.arange(self.size[1], device=x.device) * self.dilation[1]
        # [k, kh, kw, c]: the three index arrays broadcast and come first
        taken = padded.permute(0, 2, 3, 1)[where[:, None, None], rows[:, :, None], columns[:, None]]
        return taken.permute(0, 3, 1, 2).flatten(1)

    def _pad_fully(self, x: Tensor) -> Tensor:
        if not any(self.padding):
            return x
        return F.pad(x, self.padding, "constant" if self.mode == "zeros" else self.mode)

    def _grid(self, x: Tensor) -> Pair:
        left, right, top, bottom = self.padding
        height = x.shape[-2] + top + bottom - self.dilation[0] * (self.size[0] - 1) - 1
        width = x.shape[-1] + left + right - self.dilation[1] * (self.size[1] - 1) - 1
        return height // self.stride[0] + 1, width // self.stride[1] + 1


def conv_arguments(conv: nn.Conv2d) -> dict[str, Any]:
    """Returns what another convolution needs to move as ``conv`` does."""
    names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
    return {name: getattr(conv, name) for name in names}


def _pair(value: tuple[int, ...]) -> Pair:
    return value[0], value[1]
