"""Convolutions by additions, and the gradients of their kernels."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spike_ops._conv_shape import ConvShape, Walk, second_sum, walk_of
from spike_ops._event import gather_add
from spike_ops._index import Bags

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
CHUNK = 1 << 19  # elements of the first sum at a time, to be read again from the cache
KEYS = 1 << 16  # the stable sort of 16-bit keys is a radix sort


def event_conv(found: Tensor, shape: ConvShape, weight: Tensor) -> Tensor:
    """Return the convolution [B, O, ...] of the spikes at the positions found, channels last."""
    walk, tables = walk_of(shape), conv_tables(weight, shape)
    width = shape.outputs // shape.groups
    sums = []
    for part, bags in run_bags(found, shape, walk):
        rows = gather_add(bags, tables).view(-1, width)
        sums.append(gather_add(second_sum(part), rows))
    joined = torch.cat(sums).view(shape.batch, shape.groups, *shape.out_sides, width)
    return joined.movedim(-1, 2).flatten(1, 2)


def run_bags(found: Tensor, shape: ConvShape, walk: Walk) -> Iterator[tuple[ConvShape, Bags]]:
    """Yield some samples at a time: their shape, and the rows of the tables that each bag adds."""
    count = max(1, CHUNK // max(walk.per_sample, 1))
    for part, positions in samples(found, shape, KEYS // (walk.lines * walk.row)):
        entries, before = _in_order(positions, part, walk)
        for first in range(0, part.batch, count):
            taken = min(count, part.batch - first)
            lines = slice(first * walk.lines, (first + taken) * walk.lines + 1)
            yield part._replace(batch=taken), _phases(entries, before[lines], walk)


def samples(found: Tensor, shape: ConvShape, count: int) -> Iterator[tuple[ConvShape, Int32]]:
    """Yield at most `count` samples at a time: their shape and the positions of their spikes."""
    positions, size = found.numpy(), shape.size // max(shape.batch, 1)
    for first in range(0, shape.batch, max(count, 1)):
        taken = min(max(count, 1), shape.batch - first)
        begin, end = np.searchsorted(positions, [first * size, (first + taken) * size])
        yield shape._replace(batch=taken), (positions[begin:end] - first * size).astype(np.int32)


def _in_order(positions: Int32, shape: ConvShape, walk: Walk) -> tuple[Int32, Int64]:
    """Return table rows in order of line and last place, and how many lie before each place."""
    line, channel, along = places(positions, shape, walk)
    entries = (along % walk.period) * (shape.channels // shape.groups) + channel
    if shape.groups > 1:
        each = walk.period * (shape.channels // shape.groups)
        entries += line // (walk.lines // shape.groups) % shape.groups * each
    total = shape.batch * walk.lines * walk.row
    keys = (line * walk.row + along).astype(np.uint16 if total <= KEYS else np.int32)
    entries = entries.take(np.argsort(keys, kind="stable")).astype(np.int32, copy=False)
    before = np.zeros(total + walk.row, dtype=np.int64)  # a line more, to end the last
    np.cumsum(np.bincount(keys, minlength=total), out=before[1 : total + 1])
    before[total + 1 :] = len(keys)
    return entries, before.reshape(-1, walk.row)


def _phases(entries: Int32, before: Int64, walk: Walk) -> Bags:
    """Return the bags of all phases, one phase after the other."""
    end, rows = before[-1, 0], walk.table_rows
    read, starts, total = [], [], 0
    for phase in range(walk.phases):
        begin = before[:-1, walk.step * phase :: walk.period].reshape(-1)
        read.append(entries[begin[0] : end] + np.int32(rows * phase))
        starts.append(begin + (total - begin[0]))
        total += len(read[-1])
    together = np.concatenate([*starts, [total]]).astype(np.int32)
    return Bags(torch.from_numpy(np.concatenate(read)), torch.from_numpy(together))


def places(positions: Int32, shape: ConvShape, walk: Walk) -> tuple[Int32, Int32, Int32]:
    """Return line (sample, group, leading axes), channel in the group, and padded last place."""
    rest, along = split(positions, shape.sides[-1])
    rest, leading = split(rest, math.prod(shape.sides[:-1]))
    sample, channel = split(rest, shape.channels // shape.groups)
    line = sample * np.int32(math.prod(shape.sides[:-1])) + leading
    return line, channel, along + np.int32(walk.left)


def split(values: Int32, size: int) -> tuple[Int32, Int32]:
    """Return quotient and remainder of values that are not negative."""
    if size & (size - 1) == 0:
        return values >> (size.bit_length() - 1), values & np.int32(size - 1)
    quotient = values // np.int32(size)
    return quotient, values - quotient * np.int32(size)


def conv_tables(weight: Tensor, shape: ConvShape) -> Tensor:
    """Return the kernel as tables, one a phase: rows (group, x, channel), columns (offset, output).

    The table of a phase is the kernel rotated along x, with zeros where the stride leaves gaps.
    """
    walk, each = walk_of(shape), shape.outputs // shape.groups
    kernel = weight.reshape(shape.groups, each, shape.channels // shape.groups, *shape.kernel)
    kernel = kernel if walk.tiled else kernel[..., None]
    # group, output, channel, offsets, x -> group, x, channel, offsets, output
    kernel = kernel.movedim(1, -1).movedim(-2, 1).flatten(3)
    gap = walk.period - walk.run
    kernel = torch.nn.functional.pad(kernel, (0, 0, 0, 0, 0, gap)) if gap else kernel
    twice = torch.cat([kernel, kernel], 1) if walk.phases > 1 else kernel
    begins = [-walk.step * phase % walk.period for phase in range(walk.phases)]
    tables = torch.stack([twice[:, begin : begin + walk.period] for begin in begins])
    return tables.reshape(-1, kernel.shape[-1])
