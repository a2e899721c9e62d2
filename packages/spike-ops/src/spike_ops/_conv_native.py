"""Convolutions by the compiled kernels: from the spikes of a window straight to its output."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spike_ops import _native
from spike_ops._conv_shape import ConvShape, Whole, grid, reached
from spike_ops._index import SpikeIndex


class Path(NamedTuple):
    """What the kernels need to know of a convolution."""

    key: Tensor  # [plane]: place of a spike within its sample and group
    shift: Tensor  # [plane]: first row of the table for its place along the last axis
    source: Tensor  # [output lines, offsets]: the input line read, -1 for none
    sizes: tuple[int, ...]

    @property
    def row(self) -> int:
        """Places of a line."""
        return self.sizes[7]


@lru_cache(maxsize=64)
def path_of(shape: ConvShape) -> Path:
    """Return the path of a convolution; the batch does not matter."""
    side, kernel, left = shape.sides[-1], shape.kernel[-1], shape.padding[-1]
    stride, apart = shape.stride[-1], shape.dilation[-1]
    runs, length = (1, kernel) if apart == 1 else (kernel, 1)
    along, each = shape.out_sides[-1], shape.channels // shape.groups
    row = max(side + left, (along - 1) * stride + (kernel - 1) * apart + 1)
    lines = math.prod(shape.sides[:-1])
    places = np.arange(side) + left
    key = (np.arange(lines)[:, None] * row + places).reshape(-1)
    shift = np.tile(places * each, lines)
    source = _source(shape)
    offsets, width = source.shape[1], shape.outputs // shape.groups
    of_output = (len(source), along, offsets, runs, length, apart, stride, row, each, width)
    sizes = (*of_output, offsets * kernel * each, lines, shape.groups)
    return Path(_int32(key), _int32(shift), _int32(source), sizes)


def _int32(values: Whole) -> Tensor:
    return torch.from_numpy(values.astype(np.int32))


def _source(shape: ConvShape) -> Whole:
    places, offsets = grid(shape.out_sides[:-1]), grid(shape.kernel[:-1])
    line = np.zeros((places.shape[1], offsets.shape[1]), dtype=np.int64)
    inside = np.ones_like(line, dtype=bool)
    for axis, side in enumerate(shape.sides[:-1]):
        at, valid = reached(shape, axis, places[axis], offsets[axis])
        line, inside = line * side + at, inside & valid
    return np.where(inside, line, -1)


def native_conv(index: SpikeIndex, shape: ConvShape, weight: Tensor) -> Tensor:
    """Return the convolution [B, O, ...], channels last."""
    path, spikes = _ordered(index, shape)
    width, lines = shape.outputs // shape.groups, shape.batch * shape.groups * path.sizes[0]
    table = _grouped(weight, shape).permute(0, 3, 4, 2, 1).contiguous()
    out = torch.empty(
        shape.batch, shape.groups, *shape.out_sides, width, dtype=weight.dtype, device="cpu"
    )

    def part(first: int, last: int) -> None:
        _native.walk("convolve", spikes, path.source, path.sizes, (first, last), (table, out))

    _native.in_parts(lines, index.count * math.prod(shape.kernel) * width, part)
    return out.movedim(-1, 2).flatten(1, 2)


def native_conv_weight(index: SpikeIndex, shape: ConvShape, gradient: Tensor) -> Tensor:
    """Return the gradient of the kernel [O, C / groups, ...]."""
    path, spikes = _ordered(index, shape)
    each, width = shape.channels // shape.groups, shape.outputs // shape.groups
    given = gradient.unflatten(1, (shape.groups, width)).movedim(2, -1).contiguous()
    offsets, kernel = path.sizes[2], shape.kernel[-1]
    table = gradient.new_zeros(shape.groups, offsets, kernel, each, width)
    lines = shape.batch * shape.groups * path.sizes[0]
    _native.walk("collect", spikes, path.source, path.sizes, (0, lines), (table, given))
    return table.permute(0, 4, 3, 1, 2).reshape(shape.outputs, each, *shape.kernel)


def _ordered(index: SpikeIndex, shape: ConvShape) -> tuple[Path, tuple[Tensor, Tensor]]:
    path = path_of(shape._replace(batch=1))
    plane, each = len(path.key), shape.channels // shape.groups
    sizes = (shape.batch, shape.groups, each, plane, math.prod(shape.sides[:-1]) * path.row)
    return path, _native.order(index.packed, sizes, path.key, path.shift, index.count)


def _grouped(weight: Tensor, shape: ConvShape) -> Tensor:
    each, width = shape.channels // shape.groups, shape.outputs // shape.groups
    offsets = math.prod(shape.kernel[:-1])
    return weight.reshape(shape.groups, width, each, offsets, shape.kernel[-1])
