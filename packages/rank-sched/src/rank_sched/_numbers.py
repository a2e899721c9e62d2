"""Checks of single numbers, shared by the public functions."""

import math
from operator import index


def number(argument: str, value: float | str) -> float:
    """Return `value` as a float that is not NaN.

    Raises:
        TypeError: It is not a number.
        ValueError: It is NaN.
    """
    if isinstance(value, str):
        raise TypeError(f"{argument} must be a number, got {value!r}")
    try:
        result = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{argument} must be a number, got {value!r}") from None
    except OverflowError:
        raise ValueError(f"{argument} must fit a float, got a larger integer") from None
    if math.isnan(result):
        raise ValueError(f"{argument} must be a number, got nan")
    return result


def number_in(
    argument: str, value: float | str, low: float, high: float, *, hint: str = ""
) -> float:
    """Return `value` as a float in `low..high`.

    Raises:
        TypeError: It is not a number.
        ValueError: It is outside; the message ends with `hint`.
    """
    result = number(argument, value)
    if not low <= result <= high:
        raise ValueError(f"{argument} must be in {low:g}..{high:g}, got {result:g}{hint}")
    return result


def whole(argument: str, value: int, *, at_least: int = 0) -> int:
    """Return `value` as an int of `at_least` or more.

    Raises:
        TypeError: It is not a whole number.
        ValueError: It is smaller.
    """
    try:
        result = index(value)
    except TypeError:
        raise TypeError(f"{argument} must be a whole number, got {value!r}") from None
    if result < at_least:
        raise ValueError(f"{argument} must be at least {at_least}, got {result}")
    return result
