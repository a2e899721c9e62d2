"""A gate in the place of a unit's forward, and whether a model has some."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from torch import nn

from layer_importance._execute.stand_in import StandIn


class Pass(threading.local):
    """One thread's forward pass."""

    def __init__(self) -> None:
        self.level = 0
        self.pinned: int | None = None
        self.runs: dict[str, int] = {}


class Gate:
    """The forward of one gated module: runs it, or what stands in for it at the pass's level.

    Args:
        path: of the module.
        run: its forward before.
        stand_ins: by run, or ``None`` for all: at which level it goes, and what stands in for it.
        current: the pass under way.
    """

    def __init__(
        self,
        path: str,
        run: Callable[..., Any],
        stand_ins: Mapping[int | None, tuple[int, StandIn]],
        current: Pass,
    ) -> None:
        self.path, self.closed = path, False
        self._run, self._stand_ins, self._pass = run, stand_ins, current
        self._once = stand_ins.get(None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the module's answer, or that of what stands in for it."""
        if self.closed:  # somebody wrapped the gate and still calls it
            return self._run(*args, **kwargs)
        current, found = self._pass, self._once
        if found is None:
            number = current.runs.get(self.path, 0)
            current.runs[self.path] = number + 1
            found = self._stand_ins.get(number)
        if found is not None and found[0] < current.level:
            return found[1](*args, **kwargs)
        return self._run(*args, **kwargs)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        refuse_copy(self.path)


def refuse_copy(what: str) -> NoReturn:
    """Raises a ``ValueError``: a copied gate would still run the module it was copied from."""
    raise ValueError(
        f"model must have no gates to be copied or pickled, got gates on {what}: "
        "close the ElasticDepth first"
    )


def check_ungated(model: nn.Module) -> None:
    """Raises a ``ValueError`` that names the gated units of a model, if there are any."""
    gated = [
        path for path, m in model.named_modules() if isinstance(m.__dict__.get("forward"), Gate)
    ]
    if gated:
        raise ValueError(
            f"model already has gates on {', '.join(gated)}: close the ElasticDepth first"
        )
