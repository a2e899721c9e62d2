"""Reading and writing files of events: one row a format."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from spike_ops._checked import whole_number
from spike_ops._whole import whole
from spike_ops.events import _aedat2, _aedat3, _atis, _dat, _evt2, _evt3
from spike_ops.events._decoded import Decoded, Order, Sensor, to_events
from spike_ops.events._errors import Broken
from spike_ops.events._events import LARGEST_SIDE, Events
from spike_ops.events._span import check_events


class EventFormat(NamedTuple):
    """A format of files: by which suffix it goes, how it is read and written.

    `size` is the sensor that a file is taken to be of where the format cannot tell.
    """

    suffix: str
    decode: Callable[[bytes, Sensor | None], Decoded]
    encode: Callable[[Events], bytes]
    matches: Callable[[bytes], bool]
    size: Sensor | None = None


def _always(data: bytes) -> bool:
    del data
    return True


def _atis_of(size: Sensor) -> EventFormat:
    def decode(data: bytes, sensor: Sensor | None) -> Decoded:
        return _atis.decode(data, sensor or size)

    return EventFormat(".bin", decode, _atis.encode, _always, size)


# the first of a suffix whose `matches` agrees reads a file whose format is not told
FORMATS: dict[str, EventFormat] = {
    "n-mnist": _atis_of((34, 34)),
    "n-caltech": _atis_of((304, 240)),
    "aedat2": EventFormat(".aedat", _aedat2.decode, _aedat2.encode, _aedat2.matches),
    "aedat3": EventFormat(".aedat", _aedat3.decode, _aedat3.encode, _aedat3.matches),
    "dat": EventFormat(".dat", _dat.decode, _dat.encode, _always),
    "evt2": EventFormat(".raw", _evt2.decode, _evt2.encode, _evt2.matches),
    "evt3": EventFormat(".raw", _evt3.decode, _evt3.encode, _evt3.matches),
}


def event_formats() -> dict[str, str]:
    """Return the suffix of each format by its name.

    Example:
        >>> event_formats()["evt3"]
        '.raw'
    """
    return {name: row.suffix for name, row in FORMATS.items()}


def read_events(
    path: str | Path,
    *,
    format: str | None = None,
    sensor: Sensor | None = None,
    order: Order = "check",
) -> Events:
    """Return the events of a file.

    Args:
        path: The file.
        format: A name of `event_formats()`; without one, the suffix and the first bytes decide.
            `.bin` is read as N-MNIST; `format="n-caltech"` has the larger sensor.
        sensor: (width, height) of the sensor where the file does not tell it, or tells it wrongly.
            `.bin` never tells it, `.aedat` of AEDAT 2 only where `write_events` wrote it.
        order: What to do with times that go back: `"check"` refuses, `"sort"` sorts them.

    Raises:
        EventFileError: The file is damaged, cut off or of another format.
        ValueError: `format` or `order` is unknown, or `sensor` no two sides.
        OSError: The file cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "two.bin"
        >>> write_events(Events([3, 4], [5, 5], [100, 200], [1, 0], width=34, height=34), path)
        >>> read_events(path)
        Events(2 events, 34x34, 100..200 us)
    """
    if order not in {"check", "sort"}:
        raise ValueError(f"order must be check or sort, got {order!r}")
    if format is not None:
        _named(format)
    if sensor is not None:
        sensor = _sides(sensor)
    path = Path(path)
    if path.is_dir():
        told = "EventFolder reads a folder of classes"
        raise IsADirectoryError(f"path must be a file, got the folder {path}: {told}")
    return parse(path.read_bytes(), path, format, sensor, order)


def parse(
    data: bytes, path: Path, format: str | None, sensor: Sensor | None, order: Order
) -> Events:
    """Return the events that the bytes of a file hold."""
    try:
        row = _named(format) if format is not None else _fitting(path, data)
        return to_events(row.decode(data, sensor), order)
    except Broken as broken:
        raise broken.in_file(path) from None


def write_events(events: Events, path: str | Path, *, format: str | None = None) -> None:
    """Write events to a file; it is there whole or not at all.

    `.bin` cannot hold the size of the sensor: another than the one it is read with warns.

    Args:
        events: The events.
        path: The file; what is there is replaced.
        format: A name of `event_formats()`; without one, the first of the path's suffix.

    Raises:
        ValueError: `format` is unknown, cannot hold these events, or no format has such a suffix.
        TypeError: `events` are no `Events`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "one.raw"
        >>> write_events(Events([3], [5], [100], [1], width=640, height=480), path, format="evt3")
        >>> read_events(path)
        Events(1 events, 640x480, 100..100 us)
    """
    check_events(events)
    path = Path(path)
    name = format or next((name for name, row in FORMATS.items() if row.suffix == path.suffix), "")
    if not name:
        suffixes = ", ".join(sorted({row.suffix for row in FORMATS.values()}))
        raise ValueError(f"path must end in {suffixes}, or format be given, got {path}")
    row = _named(name)
    data = row.encode(events)
    with whole(path) as part:
        part.write_bytes(data)
    if row.size not in {None, (events.width, events.height)}:
        told = f"{name} does not hold the size of the sensor: read {path.name} with"
        warnings.warn(f"{told} sensor=({events.width}, {events.height})", stacklevel=2)


def _sides(sensor: Sensor) -> Sensor:
    if not isinstance(sensor, Sequence) or isinstance(sensor, str) or len(sensor) != 2:
        raise ValueError(f"sensor must be (width, height), got {sensor!r}")
    width, height = (whole_number("sensor", side) for side in sensor)
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise ValueError(f"sensor must have sides in 1..{LARGEST_SIDE}, got {sensor!r}")
    return width, height


def _named(name: str) -> EventFormat:
    if name not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {name!r}")
    return FORMATS[name]


def _fitting(path: Path, data: bytes) -> EventFormat:
    suffixes = sorted({row.suffix for row in FORMATS.values()})
    rows = [row for row in FORMATS.values() if row.suffix == path.suffix.lower()]
    if not rows:
        raise Broken(0, f"the suffix must be one of {', '.join(suffixes)}, or format be given")
    for row in rows:
        if row.matches(data):
            return row
    raise Broken(0, f"the file must begin as a {path.suffix} file does, got {data[:16]!r}")
