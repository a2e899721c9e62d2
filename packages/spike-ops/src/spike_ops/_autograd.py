"""How an autograd function is called, in one place: torch leaves it without a type."""

from typing import Any

from torch.autograd import Function


def apply(function: type[Function], *args: Any) -> Any:
    """Return `function.apply(*args)`."""
    return function.apply(*args)  # type: ignore[no-untyped-call,unused-ignore]
