"""A batch run again with some units changed; what comes before the first of them is not run."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._structure import stream, with_stream
from layer_importance._subject import Subject
from layer_importance._units import Unit


@dataclass(frozen=True, slots=True)
class Edit:
    """What a unit hands on instead of its output.

    Attributes:
        change: makes the new output stream of the input ``x`` and the output ``y``.
        runs: whether the unit has to run for it; if not, ``y`` is the one of the unchanged run.
    """

    change: Callable[[Tensor, Tensor], Tensor]
    runs: bool = False


def removal(unit: Unit) -> Edit:
    """Returns the edit that takes a unit out: its input, or nothing for a branch."""
    if unit.removal == "zero":
        return Edit(lambda x, y: torch.zeros_like(y))
    return Edit(lambda x, y: x)


@dataclass(slots=True)
class _Recorded:
    began: int
    ended: int = -1
    x: Tensor | None = None
    output: Any = None


class Replay:
    """The unchanged run of one batch, and runs of the same batch with units edited.

    A run with edits answers from the record for every unit that ended before the first edited one
    began: for leave-one-out over ``L`` units, half of the work. The model must be inside
    :func:`preserved`; use it as a context, which holds the record and lets go of it.

    Args:
        subject: what is studied.
        batch: one of its batches.

    Attributes:
        output: the model's answer in the unchanged run.
        losses: its losses, ``[N]``.

    Example:
        >>> # with Replay(subject, batch) as replay:
        >>> #     without = replay.run({unit.name: removal(unit)})
    """

    def __init__(self, subject: Subject, batch: Any) -> None:
        self.subject, self.batch = subject, batch
        self._record: dict[str, _Recorded] = {}
        self._units: dict[str, dict[int, Unit]] = {}
        for unit in subject.units:
            self._units.setdefault(unit.path, {})[unit.call or 0] = unit
        self._calls: dict[str, int] = {}
        self._clock = 0

    def __enter__(self) -> "Replay":
        self.output = self._forward(self._recording)
        self.losses = self.subject.losses(self.output, self.batch)
        return self

    def __exit__(self, *error: object) -> None:
        self._record.clear()

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
        """Whether the unit ran for this batch."""
        return unit.name in self._record

    def run(self, edits: Mapping[str, Edit]) -> Any:
        """Returns the model's answer with the named units edited."""
        begins = [self._record[name].began for name in edits if name in self._record]
        first = min(begins, default=self._clock + 1)

        def changed(path: str, original: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                unit = self._count(path)
                recorded = None if unit is None else self._record.get(unit.name)
                if unit is None or recorded is None:
                    return original(*args, **kwargs)
                if 0 <= recorded.ended < first:
                    return self._again(path, recorded)
                if unit.name not in edits:
                    return original(*args, **kwargs)
                return self._edited(edits[unit.name], recorded, original, args, kwargs)

            return forward

        return self._forward(changed)

    def losses_with(self, edits: Mapping[str, Edit]) -> Tensor:
        """Returns the losses with the named units edited, ``[N]``."""
        return self.subject.losses(self.run(edits), self.batch)

    def _edited(
        self,
        edit: Edit,
        recorded: _Recorded,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        x = stream((args, kwargs))
        # the unchanged run's output is the template: whatever else a unit returns stays there
        template = original(*args, **kwargs) if edit.runs else recorded.output
        y = stream(template, like=x)
        if x is None or y is None:
            return template
        return with_stream(template, y, edit.change(x, y))

    def _again(self, path: str, recorded: _Recorded) -> Any:
        if not self.subject.layouts[path].writes:
            return recorded.output
        y = stream(recorded.output, like=recorded.x)
        # somebody writes into it later: the record must stay what it was
        return recorded.output if y is None else with_stream(recorded.output, y, y.clone())

    def _recording(self, path: str, original: Callable[..., Any]) -> Callable[..., Any]:
        copies = self.subject.layouts[path].writes

        def forward(*args: Any, **kwargs: Any) -> Any:
            unit = self._count(path)
            recorded = _Recorded(self._clock)
            self._clock += 1
            x = stream((args, kwargs))
            recorded.x = x.clone() if copies and x is not None else x
            output = original(*args, **kwargs)
            recorded.ended, self._clock = self._clock, self._clock + 1
            y = stream(output, like=x)
            kept = with_stream(output, y, y.clone()) if copies and y is not None else output
            recorded.output = kept
            if unit is not None:
                self._record[unit.name] = recorded
            return output

        return forward

    def _count(self, path: str) -> Unit | None:
        call = self._calls.get(path, 0)
        self._calls[path] = call + 1
        units = self._units[path]
        if len(units) == 1 and next(iter(units.values())).call is None:
            return units[0]
        return units.get(call)

    @torch.no_grad()
    def _forward(self, wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Any:
        self._calls.clear()
        with _replaced(self.subject.model, self._units, wrap):
            return self.subject.forward(self.batch)


@contextmanager
def _replaced(
    model: nn.Module,
    paths: Mapping[str, Any],
    wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]],
) -> Iterator[None]:
    modules = {path: model.get_submodule(path) for path in paths}
    before = {path: module.__dict__.get("forward") for path, module in modules.items()}
    try:
        for path, module in modules.items():
            module.__dict__["forward"] = wrap(path, module.forward)
        yield
    finally:
        for path, module in modules.items():
            module.__dict__.pop("forward", None)
            if before[path] is not None:
                module.__dict__["forward"] = before[path]
