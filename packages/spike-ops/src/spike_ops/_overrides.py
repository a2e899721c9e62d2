"""Functions that modes of torch see, as they see torch's own."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

P = ParamSpec("P")
R = TypeVar("R")


def overridable(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function whose calls a `torch.overrides.TorchFunctionMode` is told of."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if has_torch_function(args):  # type: ignore[no-untyped-call,unused-ignore]
            result: R = handle_torch_function(call, args, *args, **kwargs)
            return result
        return function(*args, **kwargs)

    return call
