"""Folders that appear whole or not at all."""

import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from adlrns._beside import beside, naming, prefix, short_name
from adlrns._errors import RunError, UseError

try:
    import fcntl
except ImportError:  # not on Windows: leftovers of dead processes then stay
    fcntl = None  # type: ignore[assignment]

_RENAME_EXCHANGE, _AT_FDCWD = 2, -100  # linux/fs.h, fcntl.h
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


def write_folder(
    target: Path,
    build: Callable[[Path], None],
    *,
    check: Callable[[Path], None] = lambda target: None,
) -> None:
    """Puts a folder in place that `build` fills, in one step; an old one is replaced whole.

    It is built beside `target`, flushed to the disk and swapped in. Whenever the process dies,
    `target` is the old folder or the new one; what such a process left beside it goes with the
    next call.

    Args:
        target: the folder to make or replace; its parents are made.
        build: called with an empty folder on the same file system.
        check: called with the target just before it is replaced; a `UseError` keeps what is
            there, and the new folder beside it.

    Raises:
        RunError: if it cannot be written, or `check` refuses; naming the folder.
    """
    target = target.resolve()
    with naming(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        restore(target)
        remove_leftovers(target)
        with _locked_sibling(target) as folder:
            build(folder)
            _sync_tree(folder)
            _check_again(check, folder, target)
            _put(folder, target)
            _sync(target.parent)
        remove_leftovers(target)


def try_folder(target: Path) -> None:
    """Makes and removes an empty folder where `write_folder` would put one, parents and all.

    Raises:
        OSError: if that fails, as it would later.
    """
    target = target.resolve()
    if os.path.ismount(target):
        raise OSError(errno.EBUSY, "a mount point cannot be replaced", str(target))
    there = next(parent for parent in target.parents if parent.exists())
    with _locked_sibling(there / target.name) as folder:
        (folder / target.relative_to(there)).mkdir(parents=True)


def remove_leftovers(target: Path) -> None:
    """Removes the unfinished folders that dead processes left beside `target`."""
    for leftover in beside(target, "new"):
        with _lock(leftover, wait=False) as taken:
            if taken:  # whoever made it is gone
                shutil.rmtree(leftover, ignore_errors=True)
    if target.exists():
        for leftover in beside(target, "old"):
            shutil.rmtree(leftover, ignore_errors=True)


def restore(target: Path) -> None:
    """Puts the old folder back where a process died between the two renames that replace it."""
    if not target.exists():
        for old in beside(target, "old"):
            old.rename(target)
            return


@contextmanager
def _locked_sibling(target: Path) -> Iterator[Path]:
    while True:
        folder = target.with_name(f"{prefix(target, 'new')}{secrets.token_hex(4)}")
        ours = True
        try:  # named before it is there: an interrupt at any moment leaves nothing behind
            try:
                folder.mkdir()
            except FileExistsError:
                ours = False
                continue
            with _lock(folder, wait=True) as taken:
                if taken and folder.exists():  # else somebody took it for a leftover
                    yield folder
                    return
        finally:
            if ours:
                _remove(folder)


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except KeyboardInterrupt:  # it came half-way
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _check_again(check: Callable[[Path], None], folder: Path, target: Path) -> None:
    """What took long to make is not thrown away because something else came first."""
    try:
        check(target)
    except UseError as error:
        number = folder.name.rpartition("-")[2]
        kept = target.with_name(f"{short_name(target)}.adlrns-kept-{number}")
        folder.rename(kept)
        raise RunError(f"{error}; that is left alone, the new result is {kept}") from None


@contextmanager
def _lock(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Holds the lock of a folder, which the system gives back when its holder dies."""
    if fcntl is None:
        yield wait
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        taken = True
    except BlockingIOError:
        taken = False
    except OSError:  # a file system without locks, as on Windows
        taken = wait
    try:
        yield taken
    finally:
        os.close(handle)


def _put(folder: Path, target: Path) -> None:
    if not target.exists():
        folder.rename(target)
    elif not _exchange(folder, target):
        # the number keeps apart what two processes put aside
        old = target.with_name(f"{prefix(target, 'old')}{os.getpid()}")
        target.rename(old)
        folder.rename(target)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step where the system can; says whether it did."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(other))


def _sync_tree(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    if path.is_dir() and fcntl is None:  # Windows has no handles of folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
