"""Calibrations on disk: a JSON file for each product and machine, written whole or not at all.

No file holds what two processes might add at once, so that nothing has to be locked.
"""

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

FORMAT = 2


def cache_file(key: Key, device: torch.device) -> Path:
    """Return the file that the calibration of a product is kept in, for a device of this machine.

    Its name holds a digest of both, so that machines that share a home do not overwrite one
    another.
    """
    return (
        cache_folder() / f"calibration-{digest(fingerprint(device) | {'product': str(key)})}.json"
    )


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
    path = cache_file(key, device)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if any(content[name] != value for name, value in _head(key, device).items()):
            return None
        return Calibration.from_json(key, content["table"])
    except OSError:
        return None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        _warn(path, error)
        return None


def save(calibration: Calibration, device: torch.device) -> bool:
    """Write a calibration to its file; tell whether that was possible."""
    key = calibration.key
    path = cache_file(key, device)
    content = _head(key, device) | {"table": calibration.to_json()}
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


def _head(key: Key, device: torch.device) -> dict[str, Any]:
    return {"format": FORMAT, "machine": fingerprint(device), "product": str(key)}


def _warn(path: Path, error: Exception) -> None:
    warnings.warn(
        f"calibration file {path} is damaged and ignored ({type(error).__name__}: {error}); "
        "calibrating again replaces it",
        stacklevel=2,
    )
