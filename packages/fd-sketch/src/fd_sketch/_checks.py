"""Checks of arguments; each error names the argument, the rule and what came."""

import operator
from typing import Any

import numpy as np


def check_count(value: Any, name: str) -> int:
    """Return `value` as an int of at least 1."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    count = operator.index(value)
    if count < 1:
        raise ValueError(f"{name} must be at least 1, got {count}")
    return count


def check_rank(value: Any, largest: int) -> int:
    """Return `value` as an int in 0..`largest`, `largest` itself for None."""
    if value is None:
        return largest
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"rank must be an int, got {type(value).__name__}")
    rank = operator.index(value)
    if not 0 <= rank <= largest:
        raise ValueError(f"rank must be in 0..{largest}, got {rank}")
    return rank


def check_decay(value: Any) -> float:
    """Return `value` as a float in (0, 1]."""
    decay = _real(value, "decay")
    if not 0.0 < decay <= 1.0:
        raise ValueError(f"decay must be in (0, 1], got {value}")
    return decay


def check_factor(value: Any, name: str) -> Any:
    """Return `value`, in (0, 1] if it is a number; an array is left to the caller."""
    if isinstance(value, int | float | np.number):
        # compared and not converted, which a compiler would not follow
        if not 0.0 < value <= 1.0:
            raise ValueError(f"{name} must be in (0, 1], got {value}")
    elif not hasattr(value, "dtype"):
        raise TypeError(f"{name} must be a number or an array, got {type(value).__name__}")
    return value


def check_fraction(value: Any, name: str) -> float:
    """Return `value` as a float in [0, 1]."""
    fraction = _real(value, name)
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {value}")
    return fraction


def check_flag(value: Any, name: str) -> bool:
    """Return `value`, a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {type(value).__name__}")
    return value


def check_another(other: Any, this: Any, what: str) -> None:
    """Refuse to merge something into itself, whose rows would count twice."""
    if other is this:
        raise ValueError(
            f"other must be another {what}, got the {what} itself; merge(copy()) doubles its rows"
        )


def check_policy(value: Any) -> str:
    """Return `value`, what to do with non-finite rows."""
    if value not in ("skip", "raise"):
        raise ValueError(f"nonfinite must be 'skip' or 'raise', got {value!r}")
    return str(value)


def check_method(value: Any) -> str:
    """Return `value`, the name of a method or of the choice between them."""
    if value not in ("auto", "exact", "fd"):
        raise ValueError(f"method must be 'auto', 'exact' or 'fd', got {value!r}")
    return str(value)


def check_compensation(value: Any) -> str:
    """Return `value`, the name of what is put in the place of what a sketch lacks."""
    if isinstance(value, bool):
        return "diag" if value else "raw"
    if value not in ("raw", "robust", "trace", "diag"):
        raise ValueError(
            f"compensate must be 'raw', 'robust', 'trace', 'diag' or a bool, got {value!r}"
        )
    return str(value)


def _real(value: Any, name: str) -> float:
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    return float(value)
