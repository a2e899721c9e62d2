"""Calibrations on disk: one JSON file for each machine, written whole or not at all."""

import contextlib
import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from lowrank_kernels._calibration import Calibration, Key
from lowrank_kernels._machine import cache_folder, digest, fingerprint

FORMAT = 1


def cache_file(device: torch.device | str = "cpu") -> Path:
    """Return the file that calibrations for a device of this machine are kept in.

    Its name holds a digest of the fingerprint, so that machines that share a home do not
    overwrite one another.
    """
    return cache_folder() / f"calibration-{digest(fingerprint(torch.device(device)))}.json"


def stamp(path: Path) -> int:
    """Return a number that changes with the file; 0 where there is none to read."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def load(key: Key, device: torch.device) -> Calibration | None:
    """Return the calibration of a product, None where there is none of this machine.

    A file of another machine, thread count or version of torch is ignored; so is a damaged one,
    with a warning that names it.
    """
    path = cache_file(device)
    tables = _tables(path, fingerprint(device))
    table = tables.get(str(key))
    if table is None:
        return None
    try:
        return Calibration.from_json(key, table)
    except ValueError as error:
        _warn(path, error)
        return None


def save(calibration: Calibration, device: torch.device) -> bool:
    """Add a calibration to the file; tell whether that was possible."""
    path, machine = cache_file(device), fingerprint(device)
    tables = {**_tables(path, machine), str(calibration.key): calibration.to_json()}
    content = {"format": FORMAT, "machine": machine, "tables": tables}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps(content))
    except OSError:
        return False
    return True


def _write(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _tables(path: Path, machine: dict[str, str | int]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return {}
    except UnicodeDecodeError as error:
        return _warn(path, error)
    try:
        content = json.loads(text)
        tables = content["tables"]
        known = content["format"] == FORMAT and content["machine"] == machine
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return _warn(path, error)
    if known and not isinstance(tables, dict):
        return _warn(path, TypeError("tables must be an object"))
    return tables if known else {}


def _warn(path: Path, error: Exception) -> dict[str, Any]:
    warnings.warn(
        f"calibration file {path} is damaged and ignored ({type(error).__name__}: {error}); "
        "calibrating again replaces it",
        stacklevel=2,
    )
    return {}
