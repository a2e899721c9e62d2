"""Events of a run, one line of JSON each."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from neuro_morph._event import MorphogenesisEvent


class EventLog:
    """A file that events are added to, one line each, written through to the disk.

    Args:
        path: the file; it is made if it is not there, and added to if it is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, *events: MorphogenesisEvent) -> None:
        """Adds events, all of them; none if anything is raised, an interrupt, say."""
        self._mend()
        lines = b"".join(event.to_json().encode() + b"\n" for event in events)
        with self.path.open("ab") as file:
            length = file.tell()
            try:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(length)
                raise

    def _mend(self) -> None:
        """Drops a last line that a crash cut off, so that the next one begins its own."""
        held = self.path.read_bytes() if self.path.exists() else b""
        if held and not held.endswith(b"\n"):
            with self.path.open("r+b") as file:
                file.truncate(held.rfind(b"\n") + 1)

    def read(self) -> Iterator[dict[str, Any]]:
        """Yields the events; a last line that was cut off by a crash is left out."""
        if not self.path.exists():
            return
        for line in self.path.read_bytes().split(b"\n")[:-1]:
            yield json.loads(line)
