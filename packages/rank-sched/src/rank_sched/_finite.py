"""Checks of quantities: what a bucket can hold and a policy can compare is finite."""

import math

from rank_sched._numbers import number


def finite(argument: str, value: float | str) -> float:
    """Return `value` as a float that is neither NaN nor infinite.

    Raises:
        TypeError: It is not a number.
        ValueError: It is NaN or infinite.
    """
    result = number(argument, value)
    if math.isinf(result):
        raise ValueError(f"{argument} must be finite, got {result:g}")
    return result


def quantity(argument: str, value: float | str, *, zero: bool = True) -> float:
    """Return `value` as a finite float of 0 or more, or above 0.

    Raises:
        TypeError: It is not a number.
        ValueError: It is NaN, infinite or too small.
    """
    result = finite(argument, value)
    if result < 0 or not (zero or result):
        raise ValueError(f"{argument} must be {'at least' if zero else 'above'} 0, got {result:g}")
    return result
