"""The window of time that a tensor of events covers, in whole microseconds."""

import warnings
from typing import NamedTuple

import numpy as np

from spike_ops._checked import whole_number
from spike_ops.events._events import LATEST, Column, Events

LARGEST = 2**31  # elements of one result
# a window that was asked for holds less than this share of a recording by a slip of units alone
FEWEST = 2e-3
MANY_FRAMES = 1_000
# more frames of a duration than this, with so many to an event, are a slip of units too
MOST_FRAMES, FRAMES_AN_EVENT = 10_000, 10
# surfaces of shorter time constants, or windows, are asked for by few
SHORT = 1_000


class Span(NamedTuple):
    """Times from the first that counts to the first that does not, in microseconds."""

    start: int
    stop: int


def microseconds(name: str, value: float) -> int:
    """Return a time or a duration, which is a whole number of microseconds.

    Raises:
        ValueError: It has a fraction, as seconds have.
        TypeError: It is no number.
    """
    return whole_number(name, value, "microseconds")


def span_of(events: Events, start: int | None, stop: int | None) -> Span:
    """Return the times that count.

    Raises:
        TypeError: The events are no `Events`, or a time is no number.
        ValueError: They are none, too many for 64-bit integers, or no whole microseconds.
    """
    check_events(events)
    begin = int(events.t[0]) if len(events) else 0
    begin = begin if start is None else microseconds("start", start)
    end = int(events.t[-1]) + 1 if len(events) else begin + 1
    end = end if stop is None else microseconds("stop", stop)
    if end <= begin:
        raise ValueError(f"stop must be after start, got {end} and {begin}, of {events}")
    if begin < -LATEST - 1 or end > LATEST or end - begin > LATEST:
        raise ValueError(f"start to stop must fit into 63 bits, got {begin} to {end}")
    return Span(begin, end)


def warn_of_units(events: Events, span: Span, frames: int, *, by_duration: bool = False) -> None:
    """Warn where a window or a duration was given in another unit: see `to_frames`."""
    first, last = np.searchsorted(events.t, span)
    held = int(last - first)
    got = f"{span.start}..{span.stop - 1} holds {held} of {events}; times are in microseconds"
    if held < frames and held < len(events) * FEWEST:
        warnings.warn(f"the window {got}", stacklevel=3)
    elif by_duration and frames > max(held, MANY_FRAMES):
        warnings.warn(f"there are {frames} frames, and {got}", stacklevel=3)


def check_frames(events: Events, span: Span, frames: int, duration: int) -> None:
    """Raise where frames of a duration are many, and far more than their events.

    Raises:
        ValueError: They are.
    """
    first, last = np.searchsorted(events.t, span)
    held = int(last - first)
    if frames > max(MOST_FRAMES, FRAMES_AN_EVENT * held):
        told = f"{frames} frames of {held} events (bins={frames} makes them all the same)"
        raise ValueError(f"duration must be microseconds of a frame, got {duration}: {told}")


def warn_of_tau(events: Events, now: int, tau: float) -> None:
    """Warn where next to nothing of a recording is left in a surface of a short time constant."""
    since, until = np.searchsorted(events.t, [now - int(5 * min(tau, SHORT)), now + 1])
    held = int(until - since)
    if tau < SHORT and held < until * FEWEST:
        told = f"{held} of {int(until)} events are within 5 of {tau:g} before {now}"
        warnings.warn(f"{told}; tau is in microseconds", stacklevel=3)


def time_edges(events: Events, span: Span, bins: int) -> Column:
    """Return the rows where bins of equal times begin, and where the last one ends."""
    length = span.stop - span.start
    edges = [span.start + step * length // bins for step in range(bins + 1)]
    return np.searchsorted(events.t, edges)


def check_events(events: Events) -> None:
    """Raise unless these are events."""
    if not isinstance(events, Events):
        raise TypeError(f"events must be Events, got {type(events).__name__}")


def check_size(*shape: int) -> None:
    """Raise if a result of this shape would be unreasonably large."""
    if np.prod([float(size) for size in shape]) > LARGEST:
        raise ValueError(f"the result must have at most 2^31 elements, got shape {shape}")


def number_of_bins(bins: int) -> int:
    """Return a number of bins.

    Raises:
        ValueError: It is below 1 or has a fraction.
        TypeError: It is no number.
    """
    if not 1 <= (number := whole_number("bins", bins)) <= LARGEST:
        raise ValueError(f"bins must be at least 1, got {bins}")
    return number
