"""Folders that appear whole or not at all."""

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(folder: Path, record: str) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``folder`` at the end.

    Raises:
        ValueError: if ``folder`` holds something and no file called ``record``.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder must be a folder, got the file {folder}")
    if folder.exists() and not (folder / record).exists() and any(folder.iterdir()):
        raise ValueError(f"folder must be new, empty or hold a compressed model, got {folder}")
    token = secrets.token_hex(8)
    new, old = (folder.with_name(f".{folder.name}.{word}.{token}") for word in ("new", "old"))
    new.mkdir(parents=True)
    try:
        yield new
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    except BaseException:  # an interrupt between the two moves too
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
