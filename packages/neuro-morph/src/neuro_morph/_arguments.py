"""What public functions ask of their arguments, whatever they are for."""

from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

from torch import nn


def check_kind(kind: type, **given: Any) -> None:
    """Raises TypeError naming an argument that is not of a kind, or a class and no object."""
    for name, value in given.items():
        if isinstance(value, type) or not isinstance(value, kind):
            article = "an" if kind.__name__[0] in "AEIO" else "a"
            raise TypeError(f"{name} must be {article} {kind.__name__}, got {_shown(value)}")


def check_number(*, whole: bool = False, **given: Any) -> None:
    """Raises TypeError naming an argument that is no number, or with ``whole`` no integer."""
    for name, value in given.items():
        known = isinstance(value, Integral if whole else Real)
        if isinstance(value, bool) or not known:
            raise TypeError(
                f"{name} must be {'an integer' if whole else 'a number'}, got {value!r}"
            )


def check_least(least: float, *, whole: bool = False, **given: Any) -> None:
    """Raises if an argument is no number of at least so much.

    Raises:
        TypeError: for what is no number, or with ``whole`` no integer.
        ValueError: for what is smaller, or NaN.
    """
    check_number(whole=whole, **given)
    for name, value in given.items():
        if not value >= least:
            raise ValueError(f"{name} must be at least {least}, got {value!r}")


def check_share(**given: Any) -> None:
    """Raises if an argument is no number between 0 and 1, neither included.

    Raises:
        TypeError: for what is no number.
        ValueError: for what is not between them.
    """
    check_number(**given)
    for name, value in given.items():
        if not 0.0 < value < 1.0:
            raise ValueError(f"{name} must be between 0 and 1, got {value!r}")


def several(name: str, given: Any, is_one: Callable[[Any], bool], what: str) -> list[Any]:
    """Returns the objects of an argument that is to hold several.

    Raises:
        TypeError: if it is not to be run through, or holds something else.
    """
    alone = isinstance(given, nn.Module) and not isinstance(given, nn.ModuleList)
    if alone or isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{name} must be {what}, got {_shown(given)}")
    held = list(given)
    for one in held:
        if isinstance(one, type) or not is_one(one):
            raise TypeError(f"{name} must be {what}, got {_shown(one)} in it")
    return held


def _shown(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
