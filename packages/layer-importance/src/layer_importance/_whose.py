"""Errors that say which batch they are about, and what is the matter with it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

_KINDS = (RuntimeError, ValueError, TypeError, IndexError)


def named(batch: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the entries of a batch with their keys or places, those within others by a path.

    >>> dict(named({"x": 1, "targets": [{"boxes": 2}]}))
    {'x': 1, 'targets.0.boxes': 2}
    """
    items: Any = None
    if isinstance(batch, Mapping):
        items = batch.items()
    elif isinstance(batch, tuple | list) and not _plain(batch):
        items = enumerate(batch)
    if items is None:
        yield name or "the tensor", batch
        return
    for key, value in items:
        yield from named(value, f"{name}.{key}" if name else str(key))


def _plain(values: Any) -> bool:
    """Whether it is a list of numbers or words, not of entries."""
    return all(isinstance(value, int | float | str) for value in values)


@contextmanager
def of_batch(index: int, batch: Any, first: Any = None) -> Iterator[None]:
    """Errors inside name the batch, and which of its entries are not like those of the first.

    They stay what they are; only a missing key becomes a ``ValueError``.
    """
    try:
        yield
    except KeyError as error:
        raise _told(ValueError(f"has no {error.args[0]!r}"), index, batch, first) from error
    except _KINDS as error:
        if type(error) not in _KINDS or hasattr(error, "of_batch"):
            raise  # another kind has a meaning of its own, as that of no memory has
        raise _told(error, index, batch, first) from error


def _told(error: Exception, index: int, batch: Any, first: Any) -> Exception:
    told = type(error)(f"batch {index}: {error}{_unlike(batch, first)}")
    told.of_batch = index  # type: ignore[attr-defined]
    return told


def _unlike(batch: Any, first: Any) -> str:
    """What a batch holds, where that is not what the first one holds."""
    here, there = ({n: _looks(v) for n, v in named(b)} for b in (batch, first))
    if first is None or batch is first:
        return "; it holds " + ", ".join(f"{name}: {looks}" for name, looks in here.items())
    unlike = [
        f"{name} is {here.get(name, 'not there')}, in the first batch "
        f"{there.get(name, 'not there')}"
        for name in {**here, **there}
        if not _alike(here.get(name), there.get(name))
    ]
    return "; " + ", ".join(unlike) if unlike else ""


def _looks(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return type(value).__name__


def _alike(one: str | None, two: str | None) -> bool:
    """Whether two look the same but for the number of samples."""
    if one is None or two is None:
        return one is two
    (kind, _, shape), (other, _, other_shape) = one.partition(" ["), two.partition(" [")
    return kind == other and shape.split(", ")[1:] == other_shape.split(", ")[1:]
