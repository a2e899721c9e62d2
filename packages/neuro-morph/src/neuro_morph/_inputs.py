"""Example inputs of a model: what it is called with while it is looked at and checked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


class FailsOnInputsError(RuntimeError):
    """A model cannot be run on its example inputs; the cause says why."""

    def __init__(self, done: str, cause: Exception) -> None:
        kind = type(cause).__name__
        super().__init__(f"the model cannot be {done} on example_inputs ({kind}: {cause})")


@dataclass(frozen=True)
class ExampleInputs:
    """Positional and keyword arguments of one call of a model."""

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Any) -> "ExampleInputs":
        """Returns ``given`` as the arguments of a call.

        A tensor is the only argument, a tuple or list are the positional ones, a mapping the
        keyword ones.

        Raises:
            TypeError: for anything else.
        """
        if isinstance(given, ExampleInputs):
            return given
        if isinstance(given, Tensor):
            return cls((given,))
        if isinstance(given, Mapping):
            return cls((), dict(given))
        if isinstance(given, tuple | list) and given:
            return cls(tuple(given))
        raise TypeError(
            "example_inputs must be a tensor, a tuple of positional arguments or a mapping of "
            f"keyword arguments, got {type(given).__name__}"
        )
