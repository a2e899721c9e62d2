"""Events counted in frames: bins of time, bins of equal count, windows of one duration."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spike_ops.events._events import Column, Events
from spike_ops.events._span import (
    Span,
    check_frames,
    check_size,
    microseconds,
    number_of_bins,
    span_of,
    time_edges,
    warn_of_units,
)


def to_frames(
    events: Events,
    bins: int | None = None,
    *,
    by: Literal["time", "count"] = "time",
    duration: int | None = None,
    overlap: int = 0,
    start: int | None = None,
    stop: int | None = None,
) -> Tensor:
    """Return how many events each pixel had in each frame: [T, 2, H, W] of float32, off then on.

    Either `bins` or `duration` is given. Without overlap every event from `start` to `stop` counts
    in exactly one frame, so that the frames sum to the number of events of each polarity.

    Times are whole microseconds. What looks like another unit warns: a window with fewer events
    than frames and than 1 in 500 of the recording; more than 1000 frames of a duration, and more
    than events. More than 10,000 of a duration, and more than 10 an event, are refused.

    Args:
        events: The events.
        bins: T, the number of frames.
        by: With bins: of equal times, or of equal numbers of events (within one).
        duration: Microseconds of a frame; T follows, and the last frame may be filled in part.
        overlap: Microseconds by which a frame of a duration begins before the last one ends.
        start: First time that counts; that of the first event without one.
        stop: First time that does not count any more; just after the last event without one.

    Raises:
        ValueError: A number is out of range or not whole, or the frames would have more than 2^31
            elements or be next to empty.
        TypeError: `events` are no `Events`, or something is no number.

    Example:
        >>> events = Events([0, 1, 1], [0, 0, 0], [0, 5, 9], [1, 0, 0], width=2, height=1)
        >>> to_frames(events, 2).flatten(1)
        tensor([[0., 0., 1., 0.],
                [0., 2., 0., 0.]])
    """
    span = span_of(events, start, stop)
    first, last = _borders(events, span, bins, by, duration, overlap)
    check_size(len(first), 2, events.height, events.width)
    warn_of_units(events, span, len(first), by_duration=bins is None)
    each = last - first
    rows = np.repeat(first - np.cumsum(each) + each, each) + np.arange(each.sum())
    frame = np.repeat(np.arange(len(first)), each)
    place = pixel_of(events)[rows] + frame * (2 * events.height * events.width)
    return _counted(place, (len(first), 2, events.height, events.width))


def pixel_of(events: Events) -> Column:
    """Return for each event its place in a flattened frame [2, H, W]."""
    row = events.p.astype(np.int64) * events.height + events.y
    return row * events.width + events.x


def _borders(
    events: Events,
    span: Span,
    bins: int | None,
    by: str,
    duration: int | None,
    overlap: int,
) -> tuple[Column, Column]:
    if (bins is None) == (duration is None):
        raise ValueError(f"one of bins and duration must be given, got {bins} and {duration}")
    if bins is None:
        assert duration is not None
        duration, overlap = microseconds("duration", duration), microseconds("overlap", overlap)
        return _windows(events, span, duration, overlap)
    bins = number_of_bins(bins)
    if overlap:
        raise ValueError(f"overlap needs frames of a duration, got {overlap} with {bins} bins")
    if by not in {"time", "count"}:
        raise ValueError(f"by must be time or count, got {by!r}")
    check_size(bins, 2, events.height, events.width)
    if by == "time":
        edges = time_edges(events, span, bins)
    else:
        begin, end = np.searchsorted(events.t, span)
        edges = begin + np.arange(bins + 1) * (end - begin) // bins
    return edges[:-1], edges[1:]


def _windows(events: Events, span: Span, duration: int, overlap: int) -> tuple[Column, Column]:
    if not 0 <= overlap < duration:
        got = f"{overlap} of {duration}"
        raise ValueError(f"overlap must be in 0..duration - 1, got {got}")
    step, length = duration - overlap, span.stop - span.start
    number = max(1, -(-(length - overlap) // step))
    check_size(number, 2, events.height, events.width)
    check_frames(events, span, number, duration)
    starts = span.start + min(step, length) * np.arange(number, dtype=np.int64)
    stops = starts + np.minimum(min(duration, length), span.stop - starts)
    return np.searchsorted(events.t, starts), np.searchsorted(events.t, stops)


def _counted(place: Column, shape: tuple[int, ...]) -> Tensor:
    counts = np.bincount(place, minlength=int(np.prod(shape)))
    return torch.from_numpy(counts.astype(np.float32)).reshape(shape)
