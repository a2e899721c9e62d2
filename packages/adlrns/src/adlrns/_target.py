"""Folders that a command may replace: new, empty, or written by a command before."""

from pathlib import Path

from adlrns._errors import RunError, UseError
from adlrns._folder import try_folder
from adlrns._manifest import NAME, read_manifest


def check_target(out: Path) -> None:
    """Refuses a folder that cannot be written, or that holds anything but an earlier result.

    Raises:
        UseError: if writing would fail, or destroy somebody's files.
    """
    try:
        try_folder(out)
        check_contents(out)
    except OSError as error:
        raise UseError(
            f"--out must be a folder that can be written, got {out}: {error.strerror}"
        ) from error


def check_contents(out: Path) -> None:
    """Refuses a folder that holds anything but an earlier result.

    Raises:
        UseError: if replacing the folder would destroy somebody's files.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UseError(f"--out must be a folder, got the file {out}")
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    if not found:
        return
    try:
        known = {NAME, *read_manifest(out, check_files=False).files}
    except RunError:
        raise UseError(
            f"--out must be new, empty or an earlier result, got {out} with {_some(found)} "
            f"and no readable {NAME}"
        ) from None
    if strange := found - known:
        raise UseError(
            f"--out must hold nothing but an earlier result, got {out} with {_some(strange)}"
        )


def _some(files: set[str]) -> str:
    return min(files) + (f" and {len(files) - 1} more" if len(files) > 1 else "")
