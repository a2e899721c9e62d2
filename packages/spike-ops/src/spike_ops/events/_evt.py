"""What Prophesee's `.raw` formats share: the text header, the last base of each word."""

import numpy as np

from spike_ops.events._decoded import Sensor, header_lines, size_in
from spike_ops.events._errors import Broken
from spike_ops.events._events import Column

END = "% end"


def header(data: bytes, version: str) -> tuple[Sensor | None, int]:
    """Return the sensor size that a `.raw` header tells, and the byte after it.

    Raises:
        Broken: The file does not call itself by this version.
    """
    end = data.find(f"{END}\n".encode())
    lines, start = header_lines(data[: end + len(END) + 1] if end >= 0 else data, b"% ")
    if version_in(lines) != version:
        raise Broken(0, f"the header must tell evt {version}, got {version_in(lines)!r}")
    told = size_in(lines, r"% geometry (?P<width>\d+)x(?P<height>\d+)")
    told = told or size_in(lines, r"% format .*height=(?P<height>\d+);width=(?P<width>\d+)")
    return told, start


def version_in(lines: list[str]) -> str:
    """Return the version that header lines tell: "2.0", "3.0", ..., or ""."""
    for line in lines:
        if line.startswith("% evt "):
            return line[6:].strip()[:8]
        if line.startswith("% format EVT"):
            return f"{line[12:].split(';')[0].strip()[:1]}.0"
    return ""


def version_of(data: bytes) -> str:
    """Return the version that the bytes of a file tell, or ""."""
    try:
        return version_in(header_lines(data, b"% ")[0])
    except Broken:
        return ""


def written_header(version: str, width: int, height: int) -> bytes:
    """Return a header."""
    name = f"EVT{version[0]};height={height};width={width}"
    lines = [f"evt {version}", f"format {name}", f"geometry {width}x{height}", "end"]
    return "".join(f"% {line}\n" for line in lines).encode()


def last_before(marked: Column) -> Column:
    """Return for each place the last marked place up to it, -1 where there is none."""
    places = np.where(marked, np.arange(len(marked)), -1)
    return np.maximum.accumulate(places) if len(places) else places


def unwrapped(values: Column, period: int) -> Column:
    """Return counters that begin anew after `period` as counters that go on."""
    turned = np.diff(values, prepend=values[:1]) < -period // 2
    return values + period * np.cumsum(turned)


def check_kinds(kinds: Column, known: Column, start: int, size: int) -> None:
    """Raise for the first word of a type that the format does not have."""
    if len(wrong := np.flatnonzero(~known[kinds])):
        rule = f"a word's type must be one of the format's, got {kinds[wrong[0]]:#x}"
        raise Broken(start + size * wrong[0], rule)
