"""Files that an export may write: new ones, or programs that an export wrote before."""

import zipfile
from pathlib import Path

from adlrns._errors import UseError
from adlrns._manifest import NAME


def check_file(path: Path, suffix: str) -> None:
    """Refuses a file that cannot be written, or whose writing would destroy something.

    Raises:
        UseError: if its folder is not there, or is a result folder, which a later `compress`
            replaces whole; if it holds anything but a program of the same kind.
    """
    if not path.parent.is_dir():
        raise UseError(f"--out must lie in a folder that exists, got {path}: no {path.parent}")
    if inside := next((parent for parent in path.parents if (parent / NAME).is_file()), None):
        raise UseError(
            f"--out must lie outside of result folders, which are replaced whole, got {path} in "
            f"{inside}; without --out it goes beside DIR"
        )
    if path.exists() and not is_program(path, suffix):
        raise UseError(f"--out must be new or an earlier export of this kind, got {path}")


def is_program(path: Path, suffix: str) -> bool:
    """Says whether a file is a program as the exporter with this suffix writes it."""
    if suffix == ".onnx":  # format version, then who wrote it
        with path.open("rb") as file:
            return b"pytorch" in file.read(16)
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    # weights saved alone are such an archive too, and must not be lost
    mark = "/models/" if suffix == ".pt2" else "/code/"
    return any(mark in name for name in names)
