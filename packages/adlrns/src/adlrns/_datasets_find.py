"""Which data set a path holds."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from adlrns._datasets import names
from adlrns._errors import UseError


class Found(NamedTuple):
    """A data set's name and where it is; ``digits`` is nowhere."""

    name: str
    path: Path | None


def find(spec: str, name: str | None = None) -> Found:
    """Returns what ``--data`` stands for: a path, a name, or ``name:path``.

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
        raise UseError(f"--data {spec}: no such file or folder")
    return Found(name or recognise(path), path)


def recognise(path: Path) -> str:
    """Returns the name of the data set whose files lie at ``path``.

    Raises:
        UseError: if they are none that is known.
    """
    for name, holds in _SIGNS.items():
        if holds(path):
            return name
    known = ", ".join(names())
    raise UseError(f"{path}: must hold the files of a known data set ({known}): give NAME:PATH")


def _any(*patterns: str) -> Callable[[Path], bool]:
    return lambda path: path.is_dir() and any(any(path.glob(pattern)) for pattern in patterns)


_SIGNS: dict[str, Callable[[Path], bool]] = {
    "mnist": _any("train-images-idx3-ubyte*"),
    "cifar10": _any("data_batch_*", "cifar-10-batches-*"),
    "glue": _any("train.tsv", "sts-train.csv"),
    "sentences": _any("train.csv"),
    "imagenet": lambda path: (path / "train").is_dir() and (path / "val").is_dir(),
    "text": lambda path: path.is_file(),
}
