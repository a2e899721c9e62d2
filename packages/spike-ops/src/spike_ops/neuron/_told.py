"""The settings of a module that are worth telling: those that are not what they are by default."""

import inspect
from collections.abc import Iterator
from numbers import Real
from typing import Any

from torch import nn

from spike_ops.surrogate import Surrogate

PLAIN = (Real, str, tuple, type(None), Surrogate)
# told elsewhere in a module's line
ELSEWHERE = frozenset({"surrogate"})


def differing(module: nn.Module, *, but: frozenset[str] = ELSEWHERE) -> list[str]:
    """Return `name=value` of each setting that is not its default: arguments of its making.

    What is learned has no value to tell, and neither has what is not kept by its name.
    """
    told = []
    for name, default in _arguments(type(module)):
        value = getattr(module, name, default)
        if name not in but and isinstance(value, PLAIN) and value != default:
            told.append(f"{name}={value!r}")
    return told


def _arguments(kind: type) -> Iterator[tuple[str, Any]]:
    """Yield the arguments that make a module, with their defaults, its own before inherited."""
    seen = {"self", *getattr(kind, "_fixed", ())}
    for each in kind.__mro__:
        if "__init__" not in vars(each) or each is nn.Module:
            continue
        arguments = inspect.signature(each.__init__).parameters.values()  # type: ignore[misc]
        for one in arguments:
            if one.kind not in {one.VAR_KEYWORD, one.VAR_POSITIONAL} and one.name not in seen:
                seen.add(one.name)
                yield one.name, one.default
        if not any(one.kind is one.VAR_KEYWORD for one in arguments):
            return
