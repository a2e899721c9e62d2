"""Events as grids of floats: voxel grids and time surfaces."""

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from spike_ops._checked import number, whole_number
from spike_ops.events._events import Column, Events
from spike_ops.events._frames import pixel_of
from spike_ops.events._span import (
    check_events,
    check_size,
    microseconds,
    number_of_bins,
    span_of,
    time_edges,
    warn_of_tau,
    warn_of_units,
)


def to_voxel_grid(
    events: Events, bins: int, *, start: int | None = None, stop: int | None = None
) -> Tensor:
    """Return a voxel grid, bilinear in time: [bins, H, W] of float32.

    With t* = (bins - 1) (t - t_first) / (t_last - t_first), an event adds its polarity (+1 on, -1
    off) times max(0, 1 - |b - t*|) to bin b: two weights that sum to 1.

    Args:
        events: The events.
        bins: The number of bins.
        start: t_first in microseconds; the first event's time without one.
        stop: Just after t_last; that of the last event without one. A window that holds next to
            nothing warns, as of `to_frames`.

    Raises:
        ValueError: A number is out of range or not whole.
        TypeError: `events` are no `Events`, or something is no number.

    Source: A. Z. Zhu et al., "Unsupervised event-based learning of optical flow, depth, and
    egomotion", CVPR 2019, section 3.1.

    Example:
        >>> events = Events([0, 0, 0], [0, 0, 0], [0, 4, 16], [1, 1, 0], width=1, height=1)
        >>> to_voxel_grid(events, 3).flatten()
        tensor([ 1.5000,  0.5000, -1.0000])
    """
    bins, span = number_of_bins(bins), span_of(events, start, stop)
    check_size(bins, events.height, events.width)
    warn_of_units(events, span, bins)
    events = events.between(span.start, span.stop)
    since = (events.t - span.start).astype(np.float64)  # times bins, whole numbers may overflow
    scaled = (bins - 1) * since / max(span.stop - 1 - span.start, 1)
    lower = np.minimum(scaled.astype(np.int64), max(bins - 2, 0))
    late = scaled - lower
    sign = np.where(events.p, 1.0, -1.0)
    size = events.height * events.width
    place = lower * size + events.y.astype(np.int64) * events.width + events.x
    grid = np.bincount(place, sign * (1 - late), minlength=bins * size)
    if bins > 1:
        grid = grid + np.bincount(place + size, sign * late, minlength=bins * size)
    shape = (bins, events.height, events.width)
    return torch.from_numpy(grid.astype(np.float32)).reshape(shape)


def to_time_surface(events: Events, tau: float, *, at: int | None = None) -> Tensor:
    """Return how recent each pixel's last event is: [2, H, W] of float32, off then on.

    S = exp(-(at - t_last) / tau), and 0 where there was no event up to `at`.

    Args:
        events: The events.
        tau: Time constant in microseconds. Below one it warns; and below 1000 where fewer than 1 in
            500 events are in the last 5 tau.
        at: The time of the surface; that of the last event without one.

    Raises:
        ValueError: `tau` is not positive.

    Source: X. Lagorce et al., "HOTS: a hierarchy of event-based time-surfaces for pattern
    recognition", IEEE TPAMI 2017, equation 3 over the whole sensor.

    Example:
        >>> events = Events([0, 1], [0, 0], [0, 10], [1, 0], width=2, height=1)
        >>> to_time_surface(events, tau=10.0).flatten()
        tensor([0.0000, 1.0000, 0.3679, 0.0000])
    """
    check_events(events)
    _check_tau(tau)
    last_time = int(events.t[-1]) if len(events) else 0
    now = last_time if at is None else microseconds("at", at)
    warn_of_tau(events, now, tau)
    last = np.full(2 * events.height * events.width, -np.inf)
    before = events[: np.searchsorted(events.t, now, side="right")]
    return _surface(_remember(last, before), now, tau, events)


def to_time_surfaces(
    events: Events,
    tau: float,
    bins: int,
    *,
    start: int | None = None,
    stop: int | None = None,
) -> Tensor:
    """Return the time surface at the end of each of so many equal spans: [bins, 2, H, W].

    The surface of a span is that of `to_time_surface` at its last microsecond.

    Raises:
        ValueError: A number is out of range.

    Example:
        >>> events = Events([0, 1], [0, 0], [0, 10], [1, 0], width=2, height=1)
        >>> to_time_surfaces(events, tau=10.0, bins=2, start=0, stop=20)[:, 1, 0, 0]
        tensor([0.4066, 0.1496])
    """
    _check_tau(tau)
    bins, span = number_of_bins(bins), span_of(events, start, stop)
    check_size(bins, 2, events.height, events.width)
    warn_of_units(events, span, bins)
    warn_of_tau(events, span.stop - 1, tau)
    edges = time_edges(events, span, bins)
    last = np.full(2 * events.height * events.width, -np.inf)
    surfaces = []
    for step in range(bins):
        now = span.start + (step + 1) * (span.stop - span.start) // bins - 1
        _remember(last, events[edges[step] : edges[step + 1]])
        surfaces.append(_surface(last, now, tau, events))
    return torch.stack(surfaces)


def to_local_surfaces(events: Events, tau: float, radius: int) -> Tensor:
    """Return the time surface around each event, at its time: [n, 2 r + 1, 2 r + 1] of float32.

    The pixels around an event whose last event had its polarity tell how long ago that was,
    exp(-(t_i - t_last) / tau); the middle one is 1. Outside the sensor there are zeros.

    Args:
        events: The events.
        tau: Time constant in microseconds.
        radius: r, pixels to each side.

    Raises:
        ValueError: A number is out of range.

    Source: X. Lagorce et al., "HOTS", IEEE TPAMI 2017, equations 2 and 3.

    Example:
        >>> events = Events([0, 1], [0, 0], [0, 10], [1, 1], width=2, height=1)
        >>> to_local_surfaces(events, tau=10.0, radius=1)[1, 1]
        tensor([0.3679, 1.0000, 0.0000])
    """
    check_events(events)
    _check_tau(tau)
    if (radius := whole_number("radius", radius)) < 0:
        raise ValueError(f"radius must not be negative, got {radius}")
    side = 2 * radius + 1
    check_size(len(events), side, side)
    padded = (2, events.height + 2 * radius, events.width + 2 * radius)
    last = np.full(padded, -np.inf)
    patches = np.empty((len(events), side, side), np.float32)
    columns = (each.tolist() for each in (events.x, events.y, events.t, events.p))
    for index, (x, y, t, p) in enumerate(zip(*columns, strict=True)):
        last[int(p), y + radius, x + radius] = t
        patches[index] = np.exp((last[int(p), y : y + side, x : x + side] - t) / tau)
    return torch.from_numpy(patches)


def _remember(last: Column, events: Events) -> Column:
    # in the order of time: of one pixel's times the last stays
    last[pixel_of(events)] = events.t
    return last


def _surface(last: Column, now: int, tau: float, events: Events) -> Tensor:
    surface = np.exp((last - now) / tau).astype(np.float32)
    return torch.from_numpy(surface).reshape(2, events.height, events.width)


def _check_tau(tau: float) -> None:
    number(tau=tau)
    if not (tau > 0 and math.isfinite(tau)):
        raise ValueError(f"tau must be positive and finite, got {tau}")
    if tau < 1:
        told = f"tau is in microseconds, got {tau}: less than times tell apart"
        warnings.warn(told, stacklevel=3)
