"""Tables of measurements on disk."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FORMAT = "rank-sched measurements"
VERSION = 1
UNITS = {"latency_s": "seconds", "energy_j": "joules"}


def write_table(
    path: Path, rows: Sequence[Mapping[str, object]], *, machine: Mapping[str, str]
) -> None:
    """Write the rows, all of them or nothing: to a file beside it, which then takes its name."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "units": UNITS,
        "machine": dict(machine),
        "rows": list(rows),
    }
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_table(path: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the rows and the machine of a file.

    Raises:
        ValueError: It is no such file, or damaged; the message names the file and the field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # neither text nor JSON
        raise ValueError(f"{path} must be a JSON file of measurements: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold an object, got {type(content).__name__}")
    for field, wanted in {"format": FORMAT, "version": VERSION, "units": UNITS}.items():
        if content.get(field) != wanted:
            raise ValueError(f"{path} must have {field}={wanted!r}, got {content.get(field)!r}")
    rows, machine = content.get("rows"), content.get("machine")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} must have rows, a list of objects")
    if not isinstance(machine, dict):
        raise ValueError(f"{path} must have machine, an object")
    return rows, machine
