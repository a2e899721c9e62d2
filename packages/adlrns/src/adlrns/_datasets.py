"""Real data from paths: a name, the files it is read from, and what a network must fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from adlrns._errors import UseError


class Task(NamedTuple):
    """Two parts of a data set, and what they ask for.

    Attributes:
        train: items ``(input, target)``.
        valid: the same, never trained on.
        kind: ``"classification"``, ``"regression"`` or ``"language"``.
        model: what a reference net must be told to fit: sizes, classes, vocabulary.
        metric: what is reported beside the loss.
        vocabulary: the characters or words that numbers stand for; empty where there are none.
        notes: what a reader should know of how the files were read.
    """

    train: Dataset[Any]
    valid: Dataset[Any]
    kind: str
    model: dict[str, Any]
    metric: str
    vocabulary: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


# of a set of files without a part for validation, kept apart to measure on
HELD = 0.2

Opener = Callable[[Path, dict[str, Any]], Task]


def open_task(name: str, path: Path | None, options: dict[str, Any] | None = None) -> Task:
    """Returns the data set called ``name``, read from ``path``.

    Args:
        name: one of the names in :func:`names`.
        path: a folder or file; ``digits`` needs none.
        options: of that data set.

    Raises:
        UseError: for an unknown name or option, or files that are missing, damaged or foreign.
    """
    openers = _openers()
    if name not in openers:
        raise UseError(f"data.name must be one of {', '.join(openers)}, got {name!r}")
    if path is None:
        if name != "digits":
            raise UseError(f"data {name} needs a path: --data PATH, or data.path in the file")
        path = Path()
    elif name == "digits":
        raise UseError(f"data digits must have no path, they come with scikit-learn, got {path}")
    elif not path.exists():
        raise UseError(f"data {name}: {path}: no such file or folder")
    return openers[name](path, dict(options or {}))


def names() -> tuple[str, ...]:
    """Returns the names of all data sets."""
    return tuple(_openers())


def _openers() -> dict[str, Opener]:
    from adlrns import (
        _datasets_characters as characters,
        _datasets_images as images,
        _datasets_pictures as pictures,
        _datasets_text as text,
    )

    return {
        "digits": images.open_digits,
        "mnist": images.open_idx,
        "fashion-mnist": images.open_idx,
        "cifar10": images.open_cifar10,
        "imagenet": pictures.open_folders,
        "glue": text.open_glue,
        "sentences": text.open_sentences,
        "text": characters.open_text,
    }


def option(options: dict[str, Any], name: str, default: Any, kind: type) -> Any:
    """Takes an option out of ``options``.

    Raises:
        UseError: if it is of another type, or a count below 1.
    """
    value = options.pop(name, default)
    if value is default:
        return default
    if not isinstance(value, kind) or (isinstance(value, int) and (value is True or value < 1)):
        what = "a whole number of at least 1" if kind is int else f"a {kind.__name__}"
        raise UseError(f"data.{name} must be {what}, got {value!r}")
    return value


def no_more(options: dict[str, Any], name: str) -> None:
    """Raises for options that nobody took."""
    if options:
        raise UseError(f"data {name} has no option {', '.join(sorted(options))}")


def tensors(x: Tensor, y: Tensor, most: int | None = None) -> TensorDataset:
    """Returns the first ``most`` items."""
    return TensorDataset(x[:most], y[:most])


def shuffled(count: int) -> Tensor:
    """Returns the fixed order in which a set without a split of its own is divided."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))
