"""Names beside a target, for what is not finished."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from adlrns._errors import RunError

# bytes; file systems allow names of 255, and those beside a target say more than its own
_LONG = 64


def short_name(target: Path) -> str:
    """Returns the target's name, or one of its own for a name that leaves no room for more."""
    name = os.fsencode(target.name)
    if len(name) <= _LONG:
        return target.name
    # longer than any name that stays as it is
    return f"{target.name[:32]}-{hashlib.sha256(name).hexdigest()[:32]}"


def prefix(target: Path, kind: str) -> str:
    """Returns how the names begin of what a command puts beside its target for a while."""
    return f".{short_name(target)}.adlrns-{kind}-"


def beside(target: Path, kind: str) -> list[Path]:
    """Returns what stands beside the target under such a name."""
    start = prefix(target, kind)
    found = target.parent.glob(f"{escape(start)}*")
    # what follows is random or a number: a dot is part of the name of another target
    return sorted(path for path in found if "." not in path.name[len(start) :])


@contextmanager
def naming(target: Path) -> Iterator[None]:
    """Says which target it was that could not be written: not every error names a file."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{target} could not be written: {error}") from error
