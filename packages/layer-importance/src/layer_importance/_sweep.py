"""One forward and one backward pass a batch, heard by every method at once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._batch import size
from layer_importance._events import BatchEvent, LeafEvent, Phase, UnitEvent
from layer_importance._method import SweepMethod
from layer_importance._structure import stream, with_stream
from layer_importance._subject import Subject
from layer_importance._units import Unit

_FORWARD_NEEDS = frozenset({"data", "labels"})


class Sweep:
    """Runs batches through a model once and tells the methods what goes through it.

    Methods that need no gradient hear of a unit as soon as it has run; the others once the gradient
    of its input is there, when those of later units are already gone. The model must be inside
    :func:`preserved`.

    Args:
        subject: what is studied.
        methods: who listens.
    """

    def __init__(self, subject: Subject, methods: Sequence[SweepMethod]) -> None:
        self.subject, self.methods = subject, list(methods)
        self.batches = self.samples = 0
        self._phases = _phases(self.methods)
        self._plain = [m for m in self.methods if m.needs <= _FORWARD_NEEDS]
        self._forward = [m for m in self._plain if _hears(m, "unit")]
        self._by_phase: dict[Phase, list[SweepMethod]] = {
            phase: [m for m in self.methods if phase in _phases([m])] for phase in self._phases
        }
        self._handles: list[Any] = []
        self._running: dict[str, int] = {}
        self._mask: Tensor | None = None
        self._phase: Phase = "data"
        self._waiting: dict[str, _Passage] = {}

    @property
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes a batch."""
        return 1, len(self._phases)

    def __enter__(self) -> "Sweep":
        layouts = self.subject.layouts
        for path in {unit.path: None for unit in self.subject.units if unit.path in layouts}:
            self._watch(path)
        if any(_hears(m, "leaf") for ms in self._by_phase.values() for m in ms):
            for path, module in self.subject.model.named_modules():
                if path in layouts and next(module.parameters(recurse=False), None) is not None:
                    self._watch_leaf(path, module)
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._waiting.clear()

    def run(self, batch: Any) -> None:
        """Sends one batch through."""
        subject = self.subject
        self._running.clear()
        self._waiting.clear()
        self._mask = subject.task.mask(batch)
        generator = subject.generator()
        generator.manual_seed(subject.seed + self.batches)
        with torch.set_grad_enabled(bool(self._phases)):
            output = subject.forward(batch)
        seen = torch.empty(0)  # what those who need no gradients learn of the losses
        for number, phase in enumerate(self._phases):
            labels = subject.task.sample(output, batch, generator) if phase == "sampled" else None
            losses = subject.losses(output, batch, labels)
            self._backward(phase, losses, last=number + 1 == len(self._phases))
            self._tell_batch(batch, output, losses.detach(), phase, self._by_phase[phase])
            seen = losses.detach() if phase == "data" else seen
        self._tell_batch(batch, output, seen, "data", self._plain)
        self._waiting.clear()
        self.batches += 1
        self.samples += size(batch)

    def _backward(self, phase: Phase, losses: Tensor, *, last: bool) -> None:
        self._phase = phase
        for parameter in self.subject.model.parameters():
            parameter.grad = None
        losses.sum().backward(retain_graph=not last)
        for passage in list(self._waiting.values()):  # no gradient came: nothing depends on them
            if passage.told != phase:
                passage.deliver(torch.zeros_like(passage.x))

    def _tell_batch(
        self, batch: Any, output: Any, losses: Tensor, phase: Phase, methods: list[SweepMethod]
    ) -> None:
        event = BatchEvent(
            index=self.batches, batch=batch, output=output, losses=losses, phase=phase
        )
        with torch.no_grad():
            for method in methods:
                if _hears(method, "batch"):
                    method.batch(event)

    # units

    def _watch(self, path: str) -> None:
        module = self.subject.model.get_submodule(path)
        units = {unit.call or 0: unit for unit in self.subject.units if unit.path == path}
        single = len(units) == 1 and next(iter(units.values())).call is None
        copies = self.subject.layouts[path].writes
        inside: list[Tensor | None] = []

        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            x = stream((args, kwargs))
            if x is None or _recomputing():
                inside.append(None)
                return None
            if torch.is_grad_enabled() and self._phases and not x.requires_grad:
                fresh = x.detach().requires_grad_()
                args, kwargs = with_stream((args, kwargs), x, fresh)
                inside.append(fresh)
                return args, kwargs
            inside.append(x)
            return None

        kept: list[Tensor] = []

        def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
            x = inside[-1]
            kept.append(x.detach().clone() if copies and x is not None else x)  # type: ignore[arg-type]

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            x, values = inside.pop(), kept.pop()
            if x is None:
                return
            call = self._running.get(path, 0)
            self._running[path] = call + 1
            unit = units.get(0 if single else call)
            y = stream(output, like=x)
            if unit is not None and y is not None:
                self._passed(unit, x, values, y, copies)

        self._handles += [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_pre_hook(keep, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        ]

    def _passed(self, unit: Unit, x: Tensor, values: Tensor, y: Tensor, copies: bool) -> None:
        passage = _Passage(
            self, unit, values.detach(), y.detach().clone() if copies else y.detach()
        )
        with torch.no_grad():
            event = passage.event(None, None, "data")
            for method in self._forward if event is not None else []:
                method.unit(event)  # type: ignore[arg-type]
        if self._phases and y.requires_grad:
            self._waiting[unit.name] = passage
            y.register_hook(passage.hold)
            x.register_hook(passage.deliver)

    # layers

    def _watch_leaf(self, path: str, module: nn.Module) -> None:
        layout = self.subject.layouts[path]

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            y = stream(output)
            if y is None or not y.requires_grad or _recomputing():
                return
            values = y.detach()

            def tell(grad: Tensor) -> None:
                event = LeafEvent(
                    path=path,
                    module=module,
                    args=args,
                    kwargs=kwargs,
                    output=values,
                    grad=grad,
                    x_axis=layout.x_axis,
                    y_axis=layout.y_axis,
                    calls=layout.calls,
                    samples=len(grad) if layout.y_axis < 0 else grad.shape[layout.y_axis],
                    phase=self._phase,
                )
                with torch.no_grad():
                    for method in self._by_phase[self._phase]:
                        if _hears(method, "leaf"):
                            method.leaf(event)

            y.register_hook(tell)

        self._handles.append(module.register_forward_hook(after, with_kwargs=True))


class _Passage:
    """One unit's streams in one batch, until their gradients are there."""

    def __init__(self, sweep: Sweep, unit: Unit, x: Tensor, y: Tensor) -> None:
        self.sweep, self.unit, self.x, self.y = sweep, unit, x, y
        self.told: Phase | None = None
        self._y_grad: Tensor | None = None

    def hold(self, grad: Tensor) -> None:
        """Keeps the gradient of the output until that of the input comes."""
        self._y_grad = grad

    def deliver(self, grad: Tensor) -> None:
        """Tells the methods, once a phase."""
        phase = self.sweep._phase
        if self.told == phase:
            return
        self.told = phase
        y_grad = torch.zeros_like(self.y) if self._y_grad is None else self._y_grad
        self._y_grad = None
        with torch.no_grad():
            event = self.event(grad.detach(), y_grad.detach(), phase)
            for method in self.sweep._by_phase[phase] if event is not None else []:
                if _hears(method, "unit"):
                    method.unit(event)  # type: ignore[arg-type]

    def event(self, x_grad: Tensor | None, y_grad: Tensor | None, phase: Phase) -> UnitEvent | None:
        """Returns the event with samples first; ``None`` if they cannot be told apart."""
        layout = self.sweep.subject.layouts[self.unit.path]
        if layout.x_axis < 0 or layout.y_axis < 0:
            return None
        channels = layout.channels
        if channels > 0 and layout.x_axis > 0:
            channels = -1

        def first(tensor: Tensor | None, axis: int) -> Tensor | None:
            return None if tensor is None else tensor.movedim(axis, 0)

        x, y = first(self.x, layout.x_axis), first(self.y, layout.y_axis)
        assert x is not None
        assert y is not None
        return UnitEvent(
            unit=self.unit,
            x=x,
            y=y,
            x_grad=first(x_grad, layout.x_axis),
            y_grad=first(y_grad, layout.y_axis),
            mask=self._mask_for(x, channels),
            channels=channels,
            phase=phase,
        )

    def _mask_for(self, x: Tensor, channels: int) -> Tensor | None:
        mask = self.sweep._mask
        if mask is None or x.ndim < 3:
            return None
        moved = x.movedim(channels, -1)
        return mask if tuple(mask.shape) == tuple(moved.shape[:2]) and moved.ndim == 3 else None


def _phases(methods: Sequence[SweepMethod]) -> list[Phase]:
    needs = [method.needs for method in methods]
    phases: list[Phase] = []
    if any(
        n & {"gradients", "parameter_gradients", "leaves"} and "sampled" not in n for n in needs
    ):
        phases.append("data")
    if any("sampled" in n for n in needs):
        phases.append("sampled")
    return phases


def _hears(method: SweepMethod, what: str) -> bool:
    return getattr(type(method), what) is not getattr(SweepMethod, what)


def _recomputing() -> bool:
    """Whether a backward pass runs: a forward in it is activation checkpointing's second."""
    return torch._C._current_graph_task_id() != -1
