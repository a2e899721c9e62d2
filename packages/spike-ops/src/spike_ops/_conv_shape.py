"""The sizes of a convolution, and how its event path walks along them."""

import math
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from spike_ops._index import Bags

Ints = tuple[int, ...]
Whole = NDArray[np.int64]


class _Sizes(NamedTuple):
    batch: int
    channels: int
    sides: Ints
    outputs: int
    kernel: Ints
    stride: Ints
    padding: Ints
    dilation: Ints
    groups: int


class ConvShape(_Sizes):
    """Sizes of a convolution of one to three spatial axes; the kernel is O × C/groups × kernel."""

    @cached_property
    def out_sides(self) -> Ints:
        """Spatial sizes of the result."""
        each = zip(self.sides, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in each)

    @cached_property
    def size(self) -> int:
        """Elements of the input."""
        return self.batch * self.channels * self.plane

    @cached_property
    def macs(self) -> int:
        """Multiply-adds of the dense convolution."""
        each = self.channels // self.groups * math.prod(self.kernel)
        return self.batch * self.outputs * math.prod(self.out_sides) * each

    @cached_property
    def plane(self) -> int:
        """Places of a channel."""
        return math.prod(self.sides)

    @cached_property
    def pointwise(self) -> bool:
        """Whether each place of the result is a product of the channels at its own place alone."""
        still = {*self.kernel, *self.stride} == {1} and not any(self.padding)
        return still and self.groups == 1 and self.channels % 8 == 0 and self.size > 0


class Walk:
    """How the event path goes along the last axis, and what it leaves to a second sum.

    The spikes of a row of the image lie in order of x. The window of output x is a run of them,
    and every `period`-th output has runs that do not overlap: they cut the row into bags. So the
    list of spikes is read `phases` times, once for each residue of the outputs, and is never
    copied out per window. The kernel's rows for one phase are the kernel rotated along x.

    The offsets of the kernel along the other axes lie side by side in a row of the table: a bag
    yields what its spikes give to each of them, and the second sum brings together what belongs to
    one output. A last axis with dilation goes the second way as well, in bags of one position.
    """

    def __init__(self, shape: ConvShape) -> None:
        self.shape = shape
        stride, kernel, padding = shape.stride[-1], shape.kernel[-1], shape.padding[-1]
        self.tiled = shape.dilation[-1] == 1 or kernel == 1
        if not self.tiled:
            stride, kernel, padding = 1, 1, 0
        self.run, self.step, self.left = kernel, stride, padding
        self.phases = -(-kernel // stride)
        self.period = self.phases * stride
        self.bags_along = shape.out_sides[-1] if self.tiled else shape.sides[-1]

    @cached_property
    def spread(self) -> Ints:
        """The kernel's sizes along the axes of the second sum."""
        return self.shape.kernel[:-1] if self.tiled else self.shape.kernel

    @cached_property
    def row(self) -> int:
        """Positions of a row of the image, padded so that no bag reaches into the next row."""
        ends = [
            self.step * f + self.period * len(range(f, self.bags_along, self.phases)) + (f > 0)
            for f in range(self.phases)
        ]
        return -(-max(self.shape.sides[-1] + self.left, *ends) // self.period) * self.period

    @cached_property
    def bags(self) -> Ints:
        """Bags of a row of the image, phase by phase; the last may belong to no output."""
        return tuple(len(range(self.step * f, self.row, self.period)) for f in range(self.phases))

    @cached_property
    def lines(self) -> int:
        """Rows of images of one sample: groups times the sizes before the last axis."""
        return self.shape.groups * math.prod(self.shape.sides[:-1])

    @cached_property
    def table_rows(self) -> int:
        """Rows of the table of one phase."""
        return self.period * self.shape.channels

    @cached_property
    def per_sample(self) -> int:
        """Elements of the first sum for one sample."""
        width = math.prod(self.spread) * (self.shape.outputs // self.shape.groups)
        return self.lines * sum(self.bags) * width


@lru_cache(maxsize=64)
def walk_of(shape: ConvShape) -> Walk:
    """Return the walk of a convolution."""
    return Walk(shape)


@lru_cache(maxsize=32)
def second_sum(shape: ConvShape) -> Bags:
    """Return the bags that bring the first sum's rows together, output by output.

    Outputs are in the order sample, group, position; rows of the first sum in the order phase,
    sample, group, line, bag, offset.
    """
    walk = walk_of(shape)
    sources, inside = _sources(shape, walk)
    entries = sources[inside].astype(np.int32)
    borders = np.concatenate([[0], np.cumsum(inside.sum(1))]).astype(np.int32)
    return Bags(torch.from_numpy(entries), torch.from_numpy(borders))


def _sources(
    shape: ConvShape, walk: Walk, *, together: bool = False
) -> tuple[Whole, NDArray[np.bool_]]:
    """Return [outputs, offsets]: the row of the first sum that each output adds, and if it is.

    With `together`, the bags of a line are counted in one row and not phase by phase.
    """
    offsets, places = grid(walk.spread), grid(shape.out_sides)
    line = np.zeros((places.shape[1], offsets.shape[1]), dtype=np.int64)
    inside = np.ones_like(line, dtype=bool)
    for axis, side in enumerate(shape.sides[:-1]):
        at, valid = reached(shape, axis, places[axis], offsets[axis])
        line, inside = line * side + at, inside & valid
    phases = 1 if together else walk.phases
    size = np.array([walk.bags_along] if together else walk.bags)
    if walk.tiled:
        phase, along = places[-1][:, None] % phases, places[-1][:, None] // phases
    else:
        along, valid = reached(shape, len(shape.sides) - 1, places[-1], offsets[-1])
        phase, inside = np.zeros_like(along), inside & valid
    lines = shape.batch * walk.lines
    before = np.concatenate([[0], np.cumsum(size * lines)[:-1]])
    sample = np.arange(shape.batch * shape.groups)[:, None, None] * math.prod(shape.sides[:-1])
    rows = before[phase] + (sample + line) * size[phase] + along
    sources = rows * offsets.shape[1] + np.arange(offsets.shape[1])
    flat = (-1, offsets.shape[1])
    return sources.reshape(flat), np.broadcast_to(inside, sources.shape).reshape(flat)


def grid(sides: Ints) -> Whole:
    """Return all coordinates of a grid, the last running fastest: [axes, points]."""
    return np.indices(sides).reshape(len(sides), math.prod(sides))


def reached(
    shape: ConvShape, axis: int, places: Whole, offsets: Whole
) -> tuple[Whole, NDArray[np.bool_]]:
    """Return the input coordinate of each output and kernel offset, and whether there is one."""
    at = places[:, None] * shape.stride[axis] - shape.padding[axis]
    at = at + offsets * shape.dilation[axis]
    inside = (at >= 0) & (at < shape.sides[axis])
    return np.where(inside, at, 0), inside


@lru_cache(maxsize=32)
def received_by(shape: ConvShape) -> Bags:
    """Return the bags that tell each input line and bag which outputs it gave to, by offset.

    Every row of the first sum belongs to at most one output: this is `second_sum` read backwards,
    with the phases brought together again.
    """
    walk = walk_of(shape)
    sources, inside = _sources(shape, walk, together=True)
    count = shape.batch * walk.lines * walk.bags_along * sources.shape[1]
    counts = np.zeros(count, dtype=np.int64)
    counts[sources[inside]] = 1
    output_of = np.zeros(count, dtype=np.int32)
    output_of[sources[inside]] = np.nonzero(inside)[0]
    entries, borders = output_of[counts == 1], np.concatenate([[0], np.cumsum(counts)])
    return Bags(torch.from_numpy(entries), torch.from_numpy(borders.astype(np.int32)))
