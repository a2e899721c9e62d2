"""The unchanged run of one batch, with what went into each unit and came out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor

from layer_importance._forwards import replaced
from layer_importance._structure import mapped, stream, with_stream
from layer_importance._subject import Subject
from layer_importance._units import Unit


@dataclass(slots=True)
class Recorded:
    """One call of one unit: when it began and ended, what went in and came out."""

    began: int
    ended: int = -1
    x: Tensor | None = None
    output: Any = None
    inside: dict[str, int] = field(default_factory=dict)
    """How often units within it ran meanwhile, by path."""


class Recording:
    """One run of one batch, in which nothing is changed but what ``enter`` names.

    The model must be inside :func:`preserved`; as a context it holds the record and lets go of it.

    Args:
        subject: what is studied.
        batch: one of its batches.
        answers: the batch whose labels the answers are judged by, if not ``batch`` itself.
        gradients: also take the gradient of the summed loss for every unit's output, in one
            backward pass.
        enter: makes what the named units read of what comes in, in the unchanged run too.

    Attributes:
        output: the model's answer in the unchanged run.
        losses: its losses, ``[N]``.
        executed: how many units have run so far, those inside other units not counted.
        length: how many of them one whole pass runs.
    """

    def __init__(
        self,
        subject: Subject,
        batch: Any,
        *,
        answers: Any = None,
        gradients: bool = False,
        enter: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType({}),
    ) -> None:
        self.subject, self.batch, self._enter = subject, batch, enter
        self.answers = batch if answers is None else answers
        self._probes: dict[str, Tensor] | None = {} if gradients else None
        self._gradients: dict[str, Tensor] = {}
        self.executed = self.length = 0
        self._record: dict[str, Recorded] = {}
        self._units: dict[str, dict[int, Unit]] = {}
        for unit in subject.units:
            self._units.setdefault(unit.path, {})[unit.call or 0] = unit
        self._calls: dict[str, int] = {}
        self._clock = self._depth = 0

    def __enter__(self) -> Self:
        wanted = self._probes is not None
        output = self._forward(self._recording, gradients=wanted)
        with torch.set_grad_enabled(wanted):
            losses = self.subject.losses(output, self.answers)
            self._differentiate(losses)
        self.output, self.losses = mapped(output, torch.Tensor.detach), losses.detach()
        self.length = self.executed
        return self

    def __exit__(self, *error: object) -> None:
        self._record.clear()
        self._gradients.clear()

    def x(self, unit: Unit) -> Tensor:
        """Returns the stream that went into a unit in the unchanged run."""
        found = self._record[unit.name].x
        assert found is not None
        return found

    def y(self, unit: Unit) -> Tensor:
        """Returns the stream that came out of a unit in the unchanged run."""
        recorded = self._record[unit.name]
        found = stream(recorded.output, like=recorded.x)
        assert found is not None
        return found

    def ran(self, unit: Unit) -> bool:
        """Whether the unit ran for this batch, with a stream going in and one coming out."""
        recorded = self._record.get(unit.name)
        if recorded is None or recorded.x is None:
            return False
        return stream(recorded.output, like=recorded.x) is not None

    def gradient(self, unit: Unit) -> Tensor:
        """Returns the gradient of the summed loss for a unit's output; zeros if it does not matter.

        Raises:
            ValueError: if they were not asked for when the run was made.
        """
        if self._probes is None:
            raise ValueError("gradients must be asked for: Replay(..., gradients=True)")
        found = self._gradients.get(unit.name)
        return torch.zeros_like(self.y(unit)) if found is None else found

    def _differentiate(self, losses: Tensor) -> None:
        if not self._probes:
            return
        probes = list(self._probes.values())
        found = torch.autograd.grad(losses.sum(), probes, allow_unused=True)
        pairs = zip(self._probes, found, strict=True)
        self._gradients = {name: grad for name, grad in pairs if grad is not None}
        self._probes.clear()

    def _recording(self, path: str, original: Callable[..., Any]) -> Callable[..., Any]:
        copies = self._writes(path)

        def forward(*args: Any, **kwargs: Any) -> Any:
            unit = self._count(path)
            recorded, before = Recorded(self._clock), dict(self._calls)
            self._clock += 1
            x = stream((args, kwargs))
            if unit is not None and x is not None and unit.name in self._enter:
                entering = self._enter[unit.name](x)
                args, kwargs = with_stream((args, kwargs), x, entering)
                x = entering
            recorded.x = None if x is None else x.detach().clone() if copies else x.detach()
            output = self._execute(original, args, kwargs)
            recorded.ended, self._clock = self._clock, self._clock + 1
            recorded.inside = {
                other: calls - before.get(other, 0)
                for other, calls in self._calls.items()
                if calls != before.get(other, 0)
            }
            y = stream(output, like=x)
            kept = with_stream(output, y, y.clone()) if copies and y is not None else output
            recorded.output = mapped(kept, torch.Tensor.detach)
            if unit is None:
                return output
            self._record[unit.name] = recorded
            return output if y is None else self._probed(unit, output, y)

        return forward

    def _probed(self, unit: Unit, output: Any, y: Tensor) -> Any:
        """The output plus zeros whose gradient is that of the output."""
        if self._probes is None:
            return output
        self._probes[unit.name] = torch.zeros_like(y).requires_grad_()
        return with_stream(output, y, y + self._probes[unit.name])

    def _execute(
        self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.executed += self._depth == 0
        self._depth += 1
        try:
            return original(*args, **kwargs)
        finally:
            self._depth -= 1

    def _writes(self, path: str) -> bool:
        """Whether somebody writes into what goes in or comes out; where unknown, perhaps."""
        layout = self.subject.layouts.get(path)
        return layout is None or layout.writes

    def _count(self, path: str) -> Unit | None:
        call = self._calls.get(path, 0)
        self._calls[path] = call + 1
        units = self._units[path]
        if len(units) == 1 and next(iter(units.values())).call is None:
            return units[0]
        return units.get(call)

    def _forward(
        self,
        wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]],
        *,
        gradients: bool,
    ) -> Any:
        self._calls.clear()
        with (
            torch.set_grad_enabled(gradients),
            replaced(self.subject.model, self._units, wrap),
        ):
            return self.subject.forward(self.batch)
