"""The gradient of a convolution's kernel by additions: what the spikes of a channel received."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from spike_ops._conv_event import KEYS, Int32, places, samples
from spike_ops._conv_shape import ConvShape, Walk, received_by, walk_of
from spike_ops._event import gather_add
from spike_ops._index import Bags

CHUNK = 1 << 20  # elements of spread gradients at a time


def event_conv_weight(found: Tensor, shape: ConvShape, gradient: Tensor) -> Tensor:
    """Return the kernel's gradient [O, C/groups, ...] from that of the result [B, O, ...].

    For every input place the gradients it received, one for each offset of the kernel along the
    axes of the second sum, lie side by side; a channel adds those of the places where it fired.
    """
    walk = walk_of(shape)
    each, spread = shape.outputs // shape.groups, math.prod(walk.spread)
    grouped = gradient.unflatten(1, (shape.groups, each)).movedim(2, -1)
    total = gradient.new_zeros(walk.run * shape.channels, spread * each)
    first = 0
    lines = walk.lines * walk.bags_along * spread * each
    for part, positions in samples(found, shape, CHUNK // max(lines, 1)):
        flat = grouped[first : first + part.batch].reshape(-1, each)
        rows = gather_add(received_by(part), flat).view(-1, spread * each)
        total += gather_add(_by_channel(positions, part, walk), rows)
        first += part.batch
    return _as_kernel(total, shape, walk)


def _by_channel(positions: Int32, shape: ConvShape, walk: Walk) -> Bags:
    """Return for each kernel place along x and each channel the places its spikes reached."""
    line, channel, along = places(positions, shape, walk)
    group = line // (walk.lines // shape.groups) % shape.groups
    channels = group * np.int32(shape.channels // shape.groups) + channel
    few = shape.channels <= KEYS
    order = np.argsort(channels.astype(np.uint16 if few else np.int32), kind="stable")
    line, along, channels = line.take(order), along.take(order), channels.take(order)
    read, starts, total = [], [], 0
    for reached, inside in _outputs(along, walk):
        read.append((line * np.int32(walk.bags_along) + reached)[inside])
        counts = np.bincount(channels[inside], minlength=shape.channels)
        starts.append(np.cumsum(counts) - counts + total)
        total += len(read[-1])
    starts.append(np.array([total]))
    entries = np.concatenate(read).astype(np.int32, copy=False)
    return Bags(
        torch.from_numpy(entries), torch.from_numpy(np.concatenate(starts).astype(np.int32))
    )


def _outputs(
    along: Int32, walk: Walk
) -> Iterator[tuple[Int32, "np.ndarray[tuple[int], np.dtype[np.bool_]]"]]:
    """Yield for each kernel place the output that a padded place reaches, and whether there is."""
    for place in range(walk.run):
        reached = along - np.int32(place)
        inside = (reached >= 0) & (reached < walk.bags_along * walk.step)
        if walk.step > 1:
            inside &= reached % walk.step == 0
            reached //= walk.step
        yield reached, inside


def _as_kernel(total: Tensor, shape: ConvShape, walk: Walk) -> Tensor:
    each = shape.outputs // shape.groups
    rows = total.view(walk.run, shape.groups, shape.channels // shape.groups, *walk.spread, each)
    # x, group, channel, offsets, output -> group, output, channel, offsets, x
    kernel = rows.movedim(-1, 2).movedim(0, -1) if walk.tiled else rows[0].movedim(-1, 1)
    return kernel.reshape(shape.outputs, shape.channels // shape.groups, *shape.kernel)
