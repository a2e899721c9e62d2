"""Configurations of the transformers library that may build a grown model."""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any

import torch
from torch import nn

from neuro_morph._widening import tensors_of

_MOST = 64  # sets of changes that are built
_TOGETHER = 4  # changes in one set
_OF_HEADS = re.compile(r"head|d_kv")

Key = tuple[str, ...]
Changes = dict[Key, Any]
Numbers = dict[tuple[str, str], Any]


@dataclass(frozen=True)
class Seen:
    """What a configuration builds.

    Attributes:
        shapes: the shapes of its tensors.
        numbers: the plain numbers of its modules.
    """

    shapes: dict[str, tuple[int, ...]]
    numbers: Numbers


class Search:
    """Changes of a configuration, the fewest first, and what they build.

    Args:
        model: the grown model.
        config: the configuration.
        grown: the numbers of its modules that growth has changed.
    """

    def __init__(self, model: nn.Module, config: Any, grown: Numbers) -> None:
        self.config, self.kind, self.grown = config, type(model), grown
        self.shapes = shapes_of(model)
        self._seen: list[tuple[Changes, Seen | None]] = []
        start = self.look({})
        if start is None:
            raise TypeError(f"{self.kind.__name__} is not built from its configuration alone")
        self.start = start

    def look(self, changes: Changes) -> Seen | None:
        """Returns what a changed configuration builds, without numbers; None if it cannot."""
        for known, seen in self._seen:
            if known == changes:
                return seen
        try:
            with torch.device("meta"):
                built = self.kind(changed(self.config, changes))
            found = Seen(shapes_of(built), _numbers(built))
        except Exception:  # numbers that do not go together may fail in any way
            found = None
        self._seen.append((changes, found))
        return found

    def wrong(self, seen: Seen) -> list[Any]:
        """Returns the tensors and numbers that are not those of the grown model."""
        names = dict.fromkeys([*self.shapes, *seen.shapes])
        tensors = [n for n in names if self.shapes.get(n) != seen.shapes.get(n)]
        return [*tensors, *(k for k, v in self.grown.items() if seen.numbers.get(k) != v)]

    def fitting(self) -> Iterator[Changes]:
        """Yields the changes with which the grown model's shapes and numbers come out."""
        if self.shapes.keys() != self.start.shapes.keys():
            return
        if not self.wrong(self.start):
            yield {}
        useful = self._useful(self._options())
        yield from self._fitting(useful, 0)
        more = self._useful(self._unset())
        if more:
            yield from self._fitting([*more, *useful], len(more))

    def best(self) -> tuple[Changes, Seen]:
        """Returns the changes with the fewest wrong tensors and numbers, and what they build."""
        built = ((changes, seen) for changes, seen in self._seen if seen is not None)
        return min(built, key=lambda pair: len(self.wrong(pair[1])))

    def _fitting(self, options: list[tuple[Key, Any]], new: int) -> Iterator[Changes]:
        """Yields sets of options that fit, one of the first ``new`` in each, the smallest first."""
        for changes in islice(self._sets(options, new), _MOST):
            seen = self.look(changes)
            if seen is not None and not self.wrong(seen):
                yield changes

    def _sets(self, options: list[tuple[Key, Any]], new: int) -> Iterator[Changes]:
        touched = {option: self._touched(option) for option in options}
        wrong = set(self.wrong(self.start))
        for count in range(1, _TOGETHER + 1):
            for chosen in combinations(options, count):
                changes = dict(chosen)
                fresh = not new or any(option in options[:new] for option in chosen)
                reach = [touched[option] for option in chosen]
                known = set().union(*(r for r in reach if r is not None))
                if len(changes) == count and fresh and (None in reach or wrong <= known):
                    yield changes

    def _touched(self, option: tuple[Key, Any]) -> set[Any] | None:
        """Returns the tensors and numbers that a change makes others, None if that is not known."""
        seen = self.look(dict([option]))
        if seen is None:
            return None
        first, its = ({**s.shapes, **s.numbers} for s in (self.start, seen))
        return {key for key in first.keys() | its.keys() if first.get(key) != its.get(key)}

    def _useful(self, options: list[tuple[Key, Any]]) -> list[tuple[Key, Any]]:
        return [option for option in options if self._touched(option) != set()]

    def _options(self) -> list[tuple[Key, Any]]:
        """Returns new values for numbers of the configuration: what became of such numbers."""
        pairs = self._pairs()
        became: dict[Any, dict[Any, None]] = {}
        for old, new in pairs:
            if new != old:
                became.setdefault(old, {})[new] = None
        return [
            (key, new)
            for key, value in _held(self.config)
            if value is not None
            for new in dict.fromkeys([*became.get(value, ()), *_heads(key, value, pairs)])
        ]

    def _unset(self) -> list[tuple[Key, Any]]:
        """Returns sizes that grew for what the configuration leaves open, where that has a say."""
        sizes = list(dict.fromkeys(new for old, new in self._pairs() if new != old))
        free = [key for key, value in _held(self.config) if value is None and sizes]
        said = [key for key in free if self._touched((key, sizes[0]))]
        return [(key, size) for key in said for size in sizes]

    def _pairs(self) -> list[tuple[Any, Any]]:
        """Returns sizes and numbers that the configuration builds, and what they are now."""
        found: list[tuple[Any, Any]] = []
        for name in self.shapes.keys() & self.start.shapes.keys():
            found += zip(self.start.shapes[name], self.shapes[name], strict=False)
        found += [(self.start.numbers.get(key), value) for key, value in self.grown.items()]
        return sorted({p for p in found if None not in p})


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a model's tensors by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors_of(model).items()}


def changed(config: Any, changes: Mapping[Key, Any]) -> Any:
    """Returns a copy of a configuration with new values."""
    tried = copy.deepcopy(config)
    for key, value in changes.items():
        write(tried, key, value)
    return tried


def read(config: Any, key: Key) -> Any:
    """Returns a value of a configuration or of one inside."""
    for name in key:
        config = getattr(config, name)
    return config


def write(config: Any, key: Key, value: Any) -> None:
    """Gives a configuration, or one inside, a value."""
    setattr(read(config, key[:-1]), key[-1], value)


def _numbers(model: nn.Module) -> Numbers:
    return {
        (path, name): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) in (int, float) and not name.startswith("_")
    }


def _heads(key: Key, value: Any, pairs: list[tuple[Any, Any]]) -> list[int]:
    """Returns numbers of heads that would make a size of one that they divide."""
    if type(value) is not int or value < 1 or not _OF_HEADS.search(key[-1]):
        return []
    sizes = {p for p in pairs if type(p[0]) is int and type(p[1]) is int and p[0] != p[1]}
    found = [value * new // old for old, new in sizes if not (old % value or value * new % old)]
    return sorted(set(found) - {value})


def _held(config: Any, lead: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yields numbers of a configuration and of those inside, and what it leaves open."""
    for name, value in vars(config).items():
        if type(value) in (int, float) or (value is None and not name.startswith("_")):
            yield (*lead, name), value
        elif hasattr(value, "to_dict") and not lead:
            yield from _held(value, (name,))
