"""Streams of units on their way through the model and back."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._events import UnitEvent
from layer_importance._now import Now, recomputing
from layer_importance._structure import stream, with_stream
from layer_importance._subject import Subject
from layer_importance._units import Unit

Tell = Callable[[UnitEvent], None]


class Passages:
    """Hears what goes through every unit, and its gradients.

    Args:
        subject: what is studied.
        now: the moment of the sweep.
        forward: told of a unit as soon as it has run.
        backward: told of it once the gradient of its input is there.

    Attributes:
        roots: where gradients end: streams that nothing before needs a gradient of.
        silent: units that no gradient can be had of, with the reason.
    """

    def __init__(self, subject: Subject, now: Now, forward: Tell, backward: Tell) -> None:
        self.subject, self.now = subject, now
        self.forward, self.backward = forward, backward
        self.roots: list[Tensor] = []
        self.silent: dict[str, str] = {}
        self._batch: Any = None
        self._masks: dict[tuple[int, str], Tensor | None] = {}
        self._running: dict[str, int] = {}
        self._inside: dict[str, list[tuple[Tensor, _Passage | None]]] = {}
        self._waiting: list[_Passage] = []
        self._rooted: set[str] = set()
        self._last: tuple[UnitEvent, int] | None = None

    def watch(self) -> list[Any]:
        """Puts hooks on all units that run and returns their handles."""
        layouts = self.subject.layouts
        paths = {unit.path: None for unit in self.subject.units if unit.path in layouts}
        return [handle for path in paths for handle in self._watch(path)]

    def begin_batch(self, batch: Any) -> None:
        """Called before a batch goes through."""
        self.clear()
        self._batch = batch

    def clear(self) -> None:
        """Lets go of everything of a batch."""
        self._batch = self._last = None
        for kept in (
            self.roots,
            self._running,
            self._inside,
            self._waiting,
            self._masks,
            self._rooted,
        ):
            kept.clear()

    def mask(self, x: Tensor, channels: int, tower: str) -> Tensor | None:
        """Returns which tokens of a stream with samples first are real; ``None`` if all."""
        if x.ndim != 3:
            return None
        rows, tokens = x.movedim(channels, -1).shape[:2]
        if (tokens, tower) not in self._masks:
            self._masks[tokens, tower] = self.subject.mask(self._batch, tokens, tower)
        found = self._masks[tokens, tower]
        return found if found is not None and len(found) == rows else None

    def end_pass(self) -> None:
        """Called after a backward pass: no gradient came where nothing depends on a unit."""
        for passage in self._waiting:
            passage.end_pass()

    def _watch(self, path: str) -> list[Any]:
        module = self.subject.model.get_submodule(path)
        units = {unit.call or 0: unit for unit in self.subject.units if unit.path == path}
        single = len(units) == 1 and next(iter(units.values())).call is None
        copies = self.subject.layouts[path].writes
        alone = single and units[0].removal == "zero" and not copies

        def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
            x = stream((args, kwargs))
            if x is not None and path in self._rooted and recomputing() and not self.now.apart:
                # checkpointing must save again what it saved before, whoever goes back
                return with_stream((args, kwargs), x, x.detach().requires_grad_())
            if x is None or self._deaf(path):
                return None
            call = self._running.get(path, 0)
            self._running[path] = call + 1
            entered = self._entered(path, x, copies=copies, alone=alone)
            unit, passage = units.get(0 if single else call), None
            if unit is not None:
                values = entered.detach().clone() if copies else entered.detach()
                passage = _Passage(self, unit, values)
                # now: hooks are about what a tensor is at the time, and it may be written into
                if entered.requires_grad and self.now.differentiates:
                    entered.register_hook(passage.deliver)
            self._inside.setdefault(path, []).append((entered, passage))
            return None if entered is x else with_stream((args, kwargs), x, entered)

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            if self._deaf(path) or not self._inside.get(path):
                return None
            x, passage = self._inside[path].pop()
            y = stream(output, like=x)
            if passage is None or y is None:
                return None
            left = self._left(x, y, copies=copies)
            passage.y = left.detach().clone() if copies else left.detach()
            self._passed(passage, left)
            return None if left is y else with_stream(output, y, left)

        return [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True),
        ]

    def _deaf(self, path: str) -> bool:
        if self.now.quiet:
            return True
        if recomputing():
            if path in self.silent:
                raise RuntimeError(
                    f"{path} runs again in the backward pass after a first run without gradients: "
                    "use checkpoint(..., use_reentrant=False), or no checkpointing"
                )
            return True
        return False

    def _entered(self, path: str, x: Tensor, *, copies: bool, alone: bool) -> Tensor:
        """The stream as the unit gets it, such that a gradient comes back to it."""
        if not (torch.is_grad_enabled() and self.now.differentiates):
            return x
        if not x.requires_grad:
            self._rooted.add(path)
            self.roots.append(x.detach().requires_grad_())
            # a leaf could not be written into
            return self.roots[-1].clone() if copies else self.roots[-1]
        if copies and x._is_view():
            return x.clone()  # writing into a view takes its hooks off
        # the input of a branch goes past it, too: what comes back through the branch alone
        return x.view_as(x) if alone else x

    def _left(self, x: Tensor, y: Tensor, *, copies: bool) -> Tensor:
        """The stream as the unit leaves it, such that a gradient comes back to it."""
        if not (torch.is_grad_enabled() and self.now.differentiates):
            return y
        if not y.requires_grad:
            self.roots.append(y.detach().requires_grad_())
            return self.roots[-1].clone()
        if copies and y._is_view():
            return y.clone()  # writing into a view takes its hooks off
        return y.view_as(y) if y is x and not copies else y

    def _passed(self, passage: "_Passage", y: Tensor) -> None:
        with torch.no_grad():
            if event := passage.event(None, None):
                self._inherit(event)
                self.forward(event)
        if not self.now.differentiates:
            return
        if not y.requires_grad:
            self.silent[passage.unit.path] = "it runs without gradients"
            return
        self._waiting.append(passage)
        y.register_hook(passage.hold)

    def _inherit(self, event: UnitEvent) -> None:
        """What was worked out of what comes out of one unit holds for what goes into the next."""
        if self._last is not None:
            before, version = self._last
            if before.y._version == version and _same(before, event):
                found = before.shared.items()
                event.shared.update({f"{n[:-1]}x": v for n, v in found if n.endswith(" y")})
        self._last = event, event.y._version


def _same(before: UnitEvent, event: UnitEvent) -> bool:
    """Whether what comes out of one is, in memory, what goes into the other."""
    y, x = before.y, event.x
    return (
        (y.data_ptr(), y.shape, y.stride(), y.dtype) == (x.data_ptr(), x.shape, x.stride(), x.dtype)
        and y.device == x.device
        and before.mask is event.mask
        and before.channels == event.channels
    )


class _Passage:
    """One unit's streams in one batch, until their gradients are there."""

    def __init__(self, passages: Passages, unit: Unit, x: Tensor) -> None:
        self.passages, self.unit = passages, unit
        self.x: Tensor | None = x
        self.y: Tensor | None = None
        self.told: str | None = None
        self._y_grad: Tensor | None = None

    def hold(self, grad: Tensor | None) -> None:
        """Keeps the gradient of the output until that of the input comes."""
        if grad is not None and not self.passages.now.quiet:
            self._y_grad = grad.detach()

    def deliver(self, grad: Tensor | None) -> None:
        """Tells of both, once a pass."""
        now = self.passages.now
        if grad is None or now.quiet or self.told == now.phase or self.y is None:
            return
        self.told = now.phase
        y_grad = torch.zeros_like(self.y) if self._y_grad is None else self._y_grad
        self._y_grad = None
        with torch.no_grad():
            if event := self.event(grad.detach(), y_grad):
                self.passages.backward(event)
        if now.last:  # nothing of a batch outlives its use
            self.x = self.y = None

    def end_pass(self) -> None:
        """Tells of a unit that no gradient came to."""
        if self.told != self.passages.now.phase and self.x is not None:
            self.deliver(torch.zeros_like(self.x))
        self.told = None

    def event(self, x_grad: Tensor | None, y_grad: Tensor | None) -> UnitEvent | None:
        """Returns the event with samples first; ``None`` if they cannot be told apart."""
        layout = self.passages.subject.layouts[self.unit.path]
        if layout.x_axis < 0 or layout.y_axis < 0:
            self.passages.silent[self.unit.path] = "its samples cannot be told apart"
            return None
        # channels before places is said of tensors with samples first
        channels = -1 if layout.x_axis > 0 else layout.channels

        def first(tensor: Tensor | None, axis: int) -> Tensor | None:
            return None if tensor is None else tensor.movedim(axis, 0)

        assert self.x is not None
        assert self.y is not None
        x = self.x.movedim(layout.x_axis, 0)
        return UnitEvent(
            unit=self.unit,
            x=x,
            y=self.y.movedim(layout.y_axis, 0),
            x_grad=first(x_grad, layout.x_axis),
            y_grad=first(y_grad, layout.y_axis),
            mask=self.passages.mask(x, channels, self.unit.tower),
            channels=channels,
            phase=self.passages.now.phase,
        )
