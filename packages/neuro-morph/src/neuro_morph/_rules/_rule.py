"""What is known of an operation, and the table of all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What an operation does to axes, and to the values of new units.

    Attributes:
        place: ``place(placing, *args, **kwargs)`` gives the axes of what comes out.
        value: ``value(valuing, *args, **kwargs)`` gives what new units are in what comes out.
    """

    place: Callable[..., Any]
    value: Callable[..., Any]


RULES: dict[str, Rule] = {}


def add_rule(names: str, place: Callable[..., Any], value: Callable[..., Any]) -> None:
    """Adds a rule for operations, by their ATen names with spaces between."""
    for name in names.split():
        RULES[name] = Rule(place, value)
