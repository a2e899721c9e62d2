"""Strides, paddings and sizes of a convolution."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from lowrank_kernels._checks import pair


class Geometry(NamedTuple):
    """How a kernel slides over an image; every field is (height, width)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(
        cls,
        stride: object,
        padding: object,
        dilation: object,
        groups: int,
        kernel: Sequence[int],
    ) -> "Geometry":
        """Return the geometry that the arguments of a convolution describe."""
        s, d = pair("stride", stride, least=1), pair("dilation", dilation, least=1)
        k = (kernel[0], kernel[1])
        if padding == "same":
            if s != (1, 1):
                raise ValueError(f"padding must not be 'same' with a stride, got stride {stride}")
            total = (d[0] * (k[0] - 1), d[1] * (k[1] - 1))
            before = (total[0] // 2, total[1] // 2)
            return cls(k, s, before, (total[0] - before[0], total[1] - before[1]), d, groups)
        if padding == "valid":
            return cls(k, s, (0, 0), (0, 0), d, groups)
        if isinstance(padding, str):
            raise ValueError(f"padding must be 'same', 'valid' or ints, got {padding!r}")
        p = pair("padding", padding, least=0)
        return cls(k, s, p, p, d, groups)

    def output(self, size: Sequence[int]) -> tuple[int, int]:
        """Return the height and width that come out of an image of this size."""
        h, w = (
            (n + b + a - d * (k - 1) - 1) // s + 1
            for n, k, s, b, a, d in zip(
                size, self.kernel, self.stride, self.before, self.after, self.dilation, strict=True
            )
        )
        return h, w

    def check_image(self, name: str, size: Sequence[int]) -> None:
        """Raise for an image on which the kernel has no place."""
        if min(self.output(size)) < 1:
            k, d, (p, q) = self.kernel, self.dilation, self.before
            spread = "" if d == (1, 1) else f" with dilation {_x(d)}"
            padded = "" if (p, q) == (0, 0) else f" with padding {_x((p, q))}"
            raise ValueError(
                f"{name} must be as large as the kernel, {_x(k)}{spread}, "
                f"got an image of {size[0]}x{size[1]}{padded}"
            )

    @property
    def padding(self) -> tuple[int, int] | Literal["same"]:
        """The argument of a convolution that pads like this."""
        return self.before if self.before == self.after else "same"

    def pad(self, x: Tensor) -> Tensor:
        """Return `x` with the rows and columns that only the far side is padded with."""
        if self.before == self.after:
            return x
        return F.pad(x, (0, self.after[1] - self.before[1], 0, self.after[0] - self.before[0]))


class Images(NamedTuple):
    """What is convolved: images of so many channels and pixels, and how the kernel slides."""

    channels: int
    height: int
    width: int
    geometry: Geometry

    def __str__(self) -> str:
        k, s, before, after, d, groups = self.geometry
        sides = f"k{_x(k)}-s{_x(s)}-p{_x(before)}.{_x(after)}-d{_x(d)}-g{groups}"
        return f"{self.channels}x{self.height}x{self.width}-{sides}"


def _x(pair: tuple[int, int]) -> str:
    return f"{pair[0]}x{pair[1]}"
