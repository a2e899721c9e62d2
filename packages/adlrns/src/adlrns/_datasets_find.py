"""Which data set a path holds."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from adlrns._datasets import names
from adlrns._datasets_folders import READS, holds_pictures, inside
from adlrns._errors import UseError


class Found(NamedTuple):
    """A data set's name and where it is; ``digits`` is nowhere."""

    name: str
    path: Path | None


def find(spec: str, name: str | None = None) -> Found:
    """Returns what ``--data`` stands for: a path, a name, or ``name:path``.

    A path wins over the name that a configuration says: that name stays if the files may be its
    own, otherwise it is the one that they are recognised by.

    Args:
        spec: what was given.
        name: of the data set, where a configuration says it.

    Raises:
        UseError: if there is nothing of that path, or nothing that can be recognised.
    """
    before, colon, after = spec.partition(":")
    if colon and before in names():
        return Found(before, Path(after))
    path = Path(spec)
    if not path.exists():
        if spec in names():
            return Found(spec, None)
        raise UseError(f"--data {spec}: no such file or folder, nor one of {', '.join(names())}")
    if name is None or name == "digits":  # these have no files
        return Found(recognise(path), path)
    return Found(_other(path, name) or name, path)


def place(path: Path, name: str | None) -> Found:
    """Returns what ``data.path`` of a configuration stands for, beside its ``data.name``.

    Raises:
        UseError: if there is nothing, or the files of another data set than the one named.
    """
    if not path.exists():
        raise UseError(f"data.path {path}: no such file or folder")
    if name is None:
        return Found(recognise(path), path)
    if other := _other(path, name):
        raise UseError(f"data.path {path} must hold {name}, as data.name says, got {other}")
    return Found(name, path)


def _other(path: Path, name: str) -> str | None:
    """The data set whose files these must be, if it is not the named one.

    A file may be anybody's: only folders tell.
    """
    if not path.is_dir() or _SIGNS.get(_SAME.get(name, name), _nobody)(path):
        return None
    return next((known for known, holds in _SIGNS.items() if holds(path)), None)


def recognise(path: Path) -> str:
    """Returns the name of the data set whose files lie at ``path``.

    Raises:
        UseError: if they are none that is known.
    """
    for name, holds in _SIGNS.items():
        if holds(path):
            return name
    known = ", ".join(name for name in names() if name != "digits")
    raise UseError(
        f"{path}: must hold the files of a known data set ({_READS}), got {inside(path)}; or give "
        f"NAME:PATH with one of {known}, or digits"
    )


def _nobody(path: Path) -> bool:
    del path
    return False


def _any(*patterns: str) -> Callable[[Path], bool]:
    return lambda path: path.is_dir() and any(any(path.glob(pattern)) for pattern in patterns)


_SIGNS: dict[str, Callable[[Path], bool]] = {
    "mnist": _any("train-images-idx3-ubyte*"),
    "cifar10": _any("data_batch_*", "cifar-10-batches-*"),
    "glue": _any("train.tsv", "sts-train.csv"),
    "sentences": _any("train.csv"),
    "imagenet": holds_pictures,
    "text": lambda path: path.is_file(),
}
_READS = (
    f"pictures as {READS}; idx files, train-images-idx3-ubyte; CIFAR-10, data_batch_*; GLUE, "
    "train.tsv or sts-train.csv; sentences, train.csv; or one file of text"
)
# sets that share their files' names
_SAME = {"fashion-mnist": "mnist"}
