"""The classes of DVS128 Gesture: which span of a recording shows which gesture."""

from pathlib import Path

from spike_ops.events._errors import Broken
from spike_ops.events._events import Events
from spike_ops.events._files import read_events

COLUMNS = "class,startTime_usec,endTime_usec"


def read_gestures(path: str | Path, labels: str | Path | None = None) -> list[tuple[Events, int]]:
    """Return the gestures of one recording of DVS128 Gesture, each with its class from 0.

    Args:
        path: The recording (`user01_fluorescent.aedat`).
        labels: Its table of classes; `user01_fluorescent_labels.csv` beside it without one.

    Raises:
        EventFileError: One of the files is damaged or of another format.

    Source: A. Amir et al., "A low power, fully event-based gesture recognition system", CVPR 2017.

    Example:
        >>> import tempfile
        >>> from spike_ops.events import write_events
        >>> path = Path(tempfile.mkdtemp()) / "user01.aedat"
        >>> events = Events([1, 2], [1, 1], [100, 300], [1, 0], width=128, height=128)
        >>> write_events(events, path, format="aedat3")
        >>> table = path.with_name("user01_labels.csv")
        >>> with table.open("w") as file:
        ...     print("class,startTime_usec,endTime_usec", "3,50,200", sep=chr(10), file=file)
        >>> read_gestures(path)
        [(Events(1 events, 128x128, 100..100 us), 2)]
    """
    path = Path(path)
    table = Path(labels) if labels is not None else path.with_name(f"{path.stem}_labels.csv")
    try:
        spans = _spans(table.read_bytes())
    except Broken as broken:
        raise broken.in_file(table) from None
    events = read_events(path, format="aedat3")
    return [(events.between(start, stop), label - 1) for label, start, stop in spans]


def _spans(data: bytes) -> list[tuple[int, int, int]]:
    lines = data.split(b"\n")
    if lines[0].strip() != COLUMNS.encode():
        raise Broken(0, f"the table must begin with {COLUMNS}, got {lines[0][:60]!r}")
    spans, place = [], len(lines[0]) + 1
    for line in lines[1:]:
        if line.strip():
            spans.append(_span(line.strip(), place))
        place += len(line) + 1
    return spans


def _span(line: bytes, place: int) -> tuple[int, int, int]:
    cells = line.split(b",")
    numbers = [int(cell) for cell in cells if cell.strip().isdigit() and len(cell) <= 18]
    if len(cells) != 3 or len(numbers) != 3 or numbers[0] < 1 or numbers[1] > numbers[2]:
        rule = "a row must be a class from 1 and two ascending times"
        raise Broken(place, f"{rule}, got {line[:60]!r}")
    return numbers[0], numbers[1], numbers[2]
