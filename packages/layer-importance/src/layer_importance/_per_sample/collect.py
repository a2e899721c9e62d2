"""Per-sample gradient norms of all units, gathered while one backward pass runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._now import Now, recomputing
from layer_importance._per_sample import formula_of
from layer_importance._per_sample._formula import Aside, Norms
from layer_importance._per_sample.evaluate import Key, OwnerCall, evaluate
from layer_importance._per_sample.loop import loop_norms
from layer_importance._per_sample.owners import Owner, owners
from layer_importance._structure import mapped, stream, tensors, with_stream
from layer_importance._subject import Subject
from layer_importance._units import Unit


class Collector:
    """Listens to every module that owns a unit's parameters.

    Args:
        subject: what is studied; parameters that require gradients now are those that count.
        now: the moment of the sweep.

    Attributes:
        owners: the modules, and the way each takes.
        listens: whether anybody wants to know in this pass.
        sums: whether the ``grad`` of parameters is to be filled in in this pass.
        summed: paths of the owners for which it can be.
        always: whether that is so in every pass that anybody listens to.
        failed: while a way is checked: owners whose way does not run, with the error.
    """

    def __init__(self, subject: Subject, now: Now) -> None:
        self.subject, self.now = subject, now
        self.owners = owners(subject.model, subject.units)
        self.listens, self.sums = True, False
        self.summed: frozenset[str] = frozenset()
        self.always = False
        self.failed: dict[str, str] | None = None
        self.found: dict[Key, Norms] = {}
        self.samples = 0
        self._expected: dict[Key, int] = {}
        self._pending: dict[Key, list[OwnerCall]] = {}
        self._given: dict[str, list[Any]] = {}
        self._orphans: set[str] = set()
        self._open: dict[str, int] = {}
        self._started: dict[str, int] = {}

    # hooks

    def watch(self) -> list[Any]:
        """Puts hooks on all owners and returns their handles."""
        handles: list[Any] = []
        paths = {path for owner in self.owners.values() for path in owner.calls_of}
        for path in paths:
            handles += self._watch_calls(path, self.subject.model.get_submodule(path))
        for owner in self.owners.values():
            handles += self._watch_owner(owner)
        return handles

    def _watch_calls(self, path: str, module: nn.Module) -> list[Any]:
        def before(*_: Any) -> None:
            if not self._deaf():
                self._open[path] = self._started.get(path, 0)
                self._started[path] = self._open[path] + 1

        return [module.register_forward_pre_hook(before)]

    def _watch_owner(self, owner: Owner) -> list[Any]:
        given = self._given.setdefault(owner.path, [])

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            if not self._deaf() and owner.way != "loop":
                given.append(mapped((args, kwargs), torch.Tensor.detach))

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            if owner.path in self._orphans and recomputing() and not self.now.apart:
                # checkpointing must save again what it saved before, whoever goes back
                y = stream(output)
                return y if y is None else with_stream(output, y, y.detach().requires_grad_())
            if self._deaf() or owner.way == "loop" or not given:
                return None
            inputs = given.pop()
            y = stream(output)
            if y is None or not torch.is_grad_enabled():
                return None
            if not y.requires_grad:  # nothing before it needs a gradient, but its parameters do
                self._orphans.add(owner.path)
                fresh = y.detach().requires_grad_().clone()  # a leaf could not be written into
                output, y = with_stream(output, y, fresh), fresh
            self._listen(owner, inputs, y)
            return output

        return [
            owner.module.register_forward_pre_hook(before, with_kwargs=True),
            owner.module.register_forward_hook(after, with_kwargs=True),
        ]

    def _deaf(self) -> bool:
        return self.now.quiet or not self.now.differentiates or recomputing()

    def _listen(self, owner: Owner, inputs: Any, y: Tensor) -> None:
        units = owner.units or tuple(f"{p}#{self._open.get(p, 0)}" for p in owner.calls_of)
        held = list(tensors(inputs))
        call = OwnerCall(
            owner,
            (owner.path, units),
            inputs,
            held,
            [t._version for t in held],
            y.detach() if self._needs_output(owner, held, y) else None,
            y._version,
        )
        self._expected[call.key] = self._expected.get(call.key, 0) + 1
        _on_gradient(y, lambda grad: self._arrived(call, grad))

    def _needs_output(self, owner: Owner, held: list[Tensor], y: Tensor) -> bool:
        """Whether the output spares work; else it is let go of as soon as the model does."""
        formula, layout = formula_of(owner.module), self.subject.layouts.get(owner.place)
        if owner.way != "formula" or formula is None or layout is None or layout.y_axis < 0:
            return False
        if owner.altered or (self.always and owner.path in self.summed):
            return False
        return formula.uses_output(owner.module, held[0], y, max(y.shape[layout.y_axis], 1))

    # gradients

    @torch.no_grad()
    def _arrived(self, call: OwnerCall, grad: Tensor | None) -> None:
        if self.now.quiet or not self.listens or grad is None:
            return  # none comes through an operation without a derivative, as of quantised layers
        if call.inputs is None:
            raise RuntimeError(f"a gradient of {call.owner.path} came twice")
        waiting = self._pending.setdefault(call.key, [])
        call.grad = grad.detach()
        waiting.append(call)
        if len(waiting) == self._expected[call.key]:
            self._settle(call.key)

    def _settle(self, key: Key) -> None:
        calls = self._pending.pop(key)
        with self._quietly():
            try:
                if any(call.overwritten() for call in calls):
                    raise RuntimeError(f"the input of {key[0]} is overwritten after its use")
                layout = self.subject.layouts.get(calls[0].owner.place)
                aside = self._aside(calls)
                self.now.apart = True
                self.found[key] = evaluate(calls, layout, self.samples, aside)
                for name, total in (aside.sums or {}).items():
                    parameter = getattr(calls[0].owner.module, name)
                    parameter.grad = total.to(parameter.dtype).reshape(parameter.shape)
            except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
                if self.failed is None:
                    raise
                self.failed[key[0]] = f"{type(error).__name__}: {error}".splitlines()[0]
            finally:
                self.now.apart = False
        for call in calls:
            call.grad = None
            if self.now.last:  # nothing of a batch outlives its use
                call.let_go()

    def _aside(self, calls: list[OwnerCall]) -> Aside:
        """What is worked out beside the norms, and what is known of other passes."""
        summed = calls[0].owner.path in self.summed
        useful = len(calls) == 1 and not summed and bool(calls[0].kept or not self.now.last)
        return Aside(
            sums={} if self.sums and summed else None,
            kept=calls[0].kept if useful else None,
            asks=self.failed is not None,
        )

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        before, self.now.quiet = self.now.quiet, True
        try:
            yield
        finally:
            self.now.quiet = before

    # batches and passes

    def begin_batch(self) -> None:
        """Called before a batch goes through."""
        for kept in (
            self._expected,
            self._pending,
            self._open,
            self._started,
            self.found,
            self._orphans,
        ):
            kept.clear()
        for given in self._given.values():
            given.clear()

    def begin_pass(self, losses: Tensor, *, listens: bool = True, sums: bool = False) -> None:
        """Called before a backward pass: takes the loop where there is nothing better."""
        self.samples, self.listens, self.sums = len(losses), listens, sums
        self.found.clear()
        self._pending.clear()
        if not listens:
            return
        looped = [o for o in self.owners.values() if o.way == "loop" and not o.refusal]
        with self._quietly():
            norms = iter(loop_norms(losses, [p for o in looped for p in o.parameters]))
        for owner in looped:
            pairs = [next(norms) for _ in owner.names]
            self.found[owner.path, owner.units] = _sum(pairs)

    def end_pass(self) -> Mapping[str, Norms]:
        """Returns the norms of every unit; zero where no gradient came."""
        for key in list(self._pending):
            self._settle(key)
        refused = self.refusals()
        return {
            unit.name: self._of(unit) for unit in self.subject.units if unit.name not in refused
        }

    def _of(self, unit: Unit) -> Norms:
        zero = torch.zeros(self.samples, dtype=torch.float64, device=self.subject.device)
        parts = [norms for (_, units), norms in self.found.items() if unit.name in units]
        return _sum([(zero, zero), *parts])

    def refusals(self) -> dict[str, str]:
        """Returns the units whose gradients cannot be told apart, with the reason."""
        return {
            unit.name: owner.refusal
            for owner in self.owners.values()
            if owner.refusal
            for unit in self.subject.units
            if unit.name in owner.units or unit.path in owner.calls_of
        }


def _on_gradient(y: Tensor, tell: Callable[[Tensor | None], None]) -> None:
    """Hears of the gradient of what a module returns, also if it is written into afterwards."""
    # a linear layer's output is a view of a product; writing into a view takes its hooks off
    base, shape = y._base, y.shape
    same = base is not None and base.numel() == y.numel() and base.requires_grad
    if base is not None and same and base.is_contiguous() and y.is_contiguous():
        base.register_hook(lambda grad: tell(None if grad is None else grad.reshape(shape)))
    else:
        y.register_hook(tell)


def _sum(parts: list[Norms]) -> Norms:
    return sum(p[0] for p in parts), sum(p[1] for p in parts)  # type: ignore[return-value]
