"""YAML with the line of every key."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from adlrns._errors import UseError

Place = tuple[str, ...]

# YAML 1.1 takes these for words, YAML 1.2 and everybody else for numbers
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_PREFIX = "tag:yaml.org,2002:"
_PLAIN = {_PREFIX + kind for kind in ("str", "int", "float", "bool", "null")}


class Source:
    """The values of a file, and where each of them stands.

    Attributes:
        path: the file.
        values: mappings by name, lists and plain values.
        lines: the line of each key, from 1, by its path.
        problems: what is wrong with the file itself: line and text.
    """

    def __init__(self, path: Path):
        self.path = path
        self.lines: dict[Place, int] = {}
        self.problems: list[tuple[int, str]] = []
        node = _parse(path)
        self.values: dict[str, Any] = {} if node is None else self._mapping(node, ())

    def line(self, place: Place) -> int:
        """Returns the line of a key, or of the nearest one around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)

    def where(self, line: int) -> str:
        """Returns how a line is named in a message."""
        return f"{self.path}:{line}"

    def _mapping(self, node: Node, place: Place) -> dict[str, Any]:
        line = node.start_mark.line + 1
        if not isinstance(node, MappingNode):
            what = ".".join(place) or "the file"
            self.problems.append((line, f"{what} must be keys with values, got {_shown(node)}"))
            return {}
        values: dict[str, Any] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            here = (*place, name)
            if not isinstance(key, ScalarNode):
                self.problems.append((line, "keys must be plain names"))
            elif here in self.lines:
                first = self.lines[here]
                text = f"{'.'.join(here)} must be given once, got it on line {first} too"
                self.problems.append((line, text))
            else:
                self.lines[here] = line
                values[name] = self._value(value, here)
        return values

    def _value(self, node: Node, place: Place) -> Any:
        if isinstance(node, MappingNode):
            return self._mapping(node, place)
        if isinstance(node, SequenceNode):
            return [self._value(item, place) for item in node.value]
        return self._scalar(node, place)

    def _scalar(self, node: Node, place: Place) -> Any:
        line = node.start_mark.line + 1
        if node.tag not in _PLAIN:
            kind = node.tag.removeprefix(_PREFIX)
            text = f"{'.'.join(place)} must be a number, a word, true or false, got a {kind}"
            self.problems.append((line, text))
            return None
        plain = getattr(node, "style", None) is None  # quoted words have a style
        if node.tag == f"{_PREFIX}str" and plain and _EXPONENT.fullmatch(node.value):
            return float(node.value)
        try:
            return yaml.constructor.SafeConstructor().construct_object(node)
        except ValueError:  # numbers such as 0b2
            self.problems.append((line, f"{'.'.join(place)} must be a number, got {node.value}"))
            return None


def _parse(path: Path) -> Node | None:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UseError(f"{path}: {reason}") from None
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):  # they can name themselves, or millions
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise UseError(f"{path}:{line}: values must be written out, got *{event.anchor}")
        return yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise UseError(_explain(path, text, error)) from None
    except (yaml.YAMLError, RecursionError) as error:
        said = " ".join(str(error).split()) or "nested too deeply"
        raise UseError(f"{path}: not readable YAML: {said}") from None


def _explain(path: Path, text: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    if "\t" in _indents(text, line):
        return f"{path}:{line}: lines must be indented with spaces, got a tab"
    return f"{path}:{line}: not readable YAML: {error.problem}"


def _indents(text: str, line: int) -> str:
    rows = text.splitlines()[line - 1 : line]
    return "".join(row[: len(row) - len(row.lstrip())] for row in rows)


def _shown(node: Node) -> str:
    return repr(node.value) if isinstance(node, ScalarNode) else "a list"


def leaves(values: dict[str, Any], place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yields every value that is no mapping, with its path."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, (*place, name))
        else:
            yield (*place, name), value
