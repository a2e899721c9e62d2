"""A folder of recordings, one sub-folder a class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from spike_ops.events._decoded import Order, Sensor
from spike_ops.events._events import Events
from spike_ops.events._files import FORMATS, read_events


class EventFolder(Dataset[tuple[Any, int]]):
    """Return the recordings of `root/CLASS/FILE`, each read when it is asked for.

    Classes are the names of the sub-folders in sorted order, and files are in sorted order inside
    them, on every machine. A damaged file raises an `EventFileError` that names it, when its turn
    comes.

    Args:
        root: The folder.
        transform: Applied to the events of a recording, e.g. `to_frames` with its settings.
        format: As `read_events` takes it; files of other suffixes are passed over.
        sensor: As `read_events` takes it.
        order: As `read_events` takes it.

    Raises:
        ValueError: There is no sub-folder with files of events.
        FileNotFoundError: The folder is not there.

    Example:
        >>> import tempfile
        >>> from spike_ops.events import write_events
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "seven").mkdir()
        >>> events = Events([3], [5], [100], [1], width=34, height=34)
        >>> write_events(events, root / "seven" / "first.bin")
        >>> folder = EventFolder(root)
        >>> len(folder), folder.classes, folder[0]
        (1, ['seven'], (Events(1 events, 34x34, 100..100 us), 0))
    """

    def __init__(
        self,
        root: str | Path,
        *,
        transform: Callable[[Events], Any] | None = None,
        format: str | None = None,
        sensor: Sensor | None = None,
        order: Order = "check",
    ) -> None:
        self.root, self.transform = Path(root), transform
        self.format, self.sensor, self.order = format, sensor, order
        if not self.root.is_dir():
            raise FileNotFoundError(f"root must be a folder, got {self.root}")
        if format is not None and format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
        suffixes = {row.suffix for name, row in FORMATS.items() if format in {None, name}}
        folders = sorted(each for each in self.root.iterdir() if each.is_dir())
        found = {folder.name: _files(folder, suffixes) for folder in folders}
        self.classes = [name for name, files in found.items() if files]
        if not self.classes:
            told = ", ".join(sorted(suffixes))
            rule = f"{self.root} must have sub-folders with files of {told}"
            raise ValueError(f"{rule}{_deeper(folders, suffixes)}")
        self.files = [file for files in found.values() for file in files]
        self.labels = [self.classes.index(file.parent.name) for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return a recording (or what `transform` makes of it) and its class's number."""
        path = self.files[index]
        events = read_events(path, format=self.format, sensor=self.sensor, order=self.order)
        return self.transform(events) if self.transform else events, self.labels[index]


def _deeper(folders: list[Path], suffixes: set[str]) -> str:
    """Return which folders have what was looked for, as words."""
    having = (each for each in folders if any(_files(f, suffixes) for f in each.iterdir()
                                              if f.is_dir()))  # fmt: skip
    found = " or ".join(map(str, having))
    return f"; give {found}, which has" if found else ""


def _files(folder: Path, suffixes: set[str]) -> list[Path]:
    return sorted(
        file for file in folder.iterdir()
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
    )  # fmt: skip
