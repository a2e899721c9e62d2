"""Events changed: cropped, mirrored, thinned, jittered, denoised.

What is random takes a `numpy.random.Generator` and depends on nothing else.
"""

import warnings
from typing import Literal

import numpy as np

from spike_ops.events._events import Column, Events
from spike_ops.events._span import SHORT, microseconds

SPARSE = 1_000  # events, below which a mean rate says little
# of a deviation in microseconds or pixels: beyond it 64 bits may overflow
FARTHEST = 1e15


def crop(events: Events, *, left: int, top: int, width: int, height: int) -> Events:
    """Return the events inside a rectangle, with its corner as the origin.

    Raises:
        ValueError: The rectangle is empty or leaves the sensor.

    Example:
        >>> events = Events([0, 3], [0, 1], [1, 2], [1, 1], width=4, height=2)
        >>> crop(events, left=2, top=0, width=2, height=2)
        Events(1 events, 2x2, 2..2 us)
    """
    fits = 0 <= left < left + width <= events.width and 0 <= top < top + height <= events.height
    if not fits:
        asked = f"{width}x{height} at ({left}, {top})"
        raise ValueError(f"the crop must lie in {events.width}x{events.height}, got {asked}")
    x, y = events.x.astype(np.int64) - left, events.y.astype(np.int64) - top
    kept = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return Events(x[kept], y[kept], events.t[kept], events.p[kept], width=width, height=height)


def flip(events: Events, axis: Literal["x", "y", "p", "t"]) -> Events:
    """Return the events mirrored: left-right ("x"), up-down ("y"), on-off ("p"), in time ("t").

    Mirrored in time, a recording runs backwards and every change of brightness is undone, so the
    polarities turn as well.

    Example:
        >>> flip(Events([0, 3], [0, 1], [1, 2], [1, 1], width=4, height=2), "x").x
        array([3, 0], dtype=uint16)
    """
    x, y, t, p = events.x, events.y, events.t, events.p
    if axis == "x":
        return events.like(events.width - 1 - x.astype(np.int64), y, t, p)
    if axis == "y":
        return events.like(x, events.height - 1 - y.astype(np.int64), t, p)
    if axis == "p":
        return events.like(x, y, t, ~p)
    if axis == "t":
        return events.like(x[::-1], y[::-1], t[:1] + t[-1:] - t[::-1], ~p[::-1])
    raise ValueError(f"axis must be x, y, p or t, got {axis!r}")


def drop(events: Events, fraction: float, generator: np.random.Generator) -> Events:
    """Return the events that are left when each is lost with the same probability.

    Raises:
        ValueError: `fraction` is outside 0..1.

    Example:
        >>> events = Events([0, 1], [0, 0], [0, 10], [1, 0], width=2, height=1)
        >>> drop(events, 1.0, np.random.default_rng(0))
        Events(0 events, 2x1)
    """
    _check_generator(generator)
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be in 0..1, got {fraction}")
    return events[generator.random(len(events)) >= fraction]


def jitter(
    events: Events, generator: np.random.Generator, *, time: float = 0.0, space: float = 0.0
) -> Events:
    """Return the events moved by Gaussian noise and sorted again; those off the sensor are lost.

    Args:
        events: The events.
        generator: Where the noise comes from.
        time: Standard deviation in microseconds. Times do not fall below zero.
        space: Standard deviation in pixels, for x and y alike.

    Raises:
        ValueError: A deviation is negative, not finite or too large for 64 bits.

    Example:
        >>> events = Events([0, 1], [0, 0], [0, 10], [1, 0], width=2, height=1)
        >>> jitter(events, np.random.default_rng(0), time=5.0).t
        array([ 0, 12])
    """
    _check_generator(generator)
    if not (0 <= time <= FARTHEST and 0 <= space <= FARTHEST):
        rule = f"time and space must be finite and must not be negative, nor above {FARTHEST:g}"
        raise ValueError(f"{rule}, got {time} and {space}")
    noise = generator.standard_normal((3, len(events)))
    x = events.x + np.rint(space * noise[0]).astype(np.int64)
    y = events.y + np.rint(space * noise[1]).astype(np.int64)
    t = events.t + np.rint(time * noise[2]).astype(np.int64)
    t = np.maximum(t, np.minimum(events.t, 0))
    kept = (x >= 0) & (x < events.width) & (y >= 0) & (y < events.height)
    columns = x[kept], y[kept], t[kept], events.p[kept]
    return Events.sorted(*columns, width=events.width, height=events.height)


def denoise(events: Events, window: int) -> Events:
    """Return the events that a neighbour preceded: background activity is left out.

    An event stays if one of the 8 pixels around its own had an event in the `window`
    microseconds before it (of either polarity; at the same time counts, earlier in the order). A
    window below 1000, in which the whole sensor has less than one event on average, warns.

    Source: T. Delbruck, "Frame-free dynamic digital vision", Proc. SSVS 2008.

    Raises:
        ValueError: `window` is negative or no whole number of microseconds.

    Example:
        >>> events = Events([1, 2, 9], [1, 1, 9], [0, 50, 60], [1, 1, 1], width=10, height=10)
        >>> denoise(events, window=100).x
        array([2], dtype=uint16)
    """
    if (window := microseconds("window", window)) < 0:
        raise ValueError(f"window must not be negative, got {window}")
    length = int(events.t[-1]) - int(events.t[0]) if len(events) else 0
    if len(events) >= SPARSE and window < SHORT and window * len(events) < length:
        told = f"window is in microseconds: {window} have less than one event of {events}"
        warnings.warn(told, stacklevel=2)
    kept = np.zeros(len(events), bool)
    columns = events.width + 2  # a border of one pixel spares the edges
    pixel = (events.y.astype(np.int64) + 1) * columns + events.x + 1
    for step in (-columns - 1, -columns, -columns + 1, -1, 1, columns - 1, columns, columns + 1):
        kept |= _preceded(pixel, pixel + step, events.t, window)
    return events[kept]


def _check_generator(generator: np.random.Generator) -> None:
    if not isinstance(generator, np.random.Generator):
        got = type(generator).__name__
        raise TypeError(f"generator must be a numpy.random.Generator, got {got}")


def _preceded(pixel: Column, near: Column, t: Column, window: int) -> Column:
    """Say for each event whether the last event of pixel `near[i]` before it is recent."""
    size = len(t)
    places = np.concatenate([pixel, near])
    order = np.concatenate([np.arange(size)] * 2)
    asks = np.repeat([False, True], size)
    ranked = np.lexsort((order, places))
    # in a run of one pixel the last real event before a question answers it
    seen = np.where(asks[ranked], -1, np.arange(2 * size))
    last = np.maximum.accumulate(seen) if size else seen
    questions = asks[ranked]
    answer = ranked[last[questions]]
    event = order[ranked[questions]]
    same = (last[questions] >= 0) & (places[answer] == places[ranked[questions]])
    found = np.zeros(size, bool)
    # no difference of ordered times is negative, and without a sign none overflows
    since = (t[event] - t[order[answer]]).view(np.uint64)
    found[event] = same & (since <= min(window, 2**64 - 1))
    return found
