"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a file beside `path` to write; it takes that place if nothing fails.

    Raises:
        FileNotFoundError: There is no folder for it.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path must be in a folder that is there, got {path}")
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield part
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
