"""One forward and as few backward passes a batch as possible, heard by every method at once."""

import itertools
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from layer_importance._batch import size
from layer_importance._draws import Draws
from layer_importance._events import BatchEvent, InputEvent, ParameterEvent, Phase, UnitEvent
from layer_importance._inputs import Inputs
from layer_importance._method import Need, SweepMethod
from layer_importance._now import Now
from layer_importance._opened import opened
from layer_importance._passages import Passages
from layer_importance._per_sample.check import check
from layer_importance._per_sample.collect import Collector
from layer_importance._per_sample.owners import Owner, summary
from layer_importance._subject import Subject

_BACKWARD = frozenset({"gradients", "parameter_gradients", "per_sample"})


class Sweep:
    """Runs batches through a model once and tells the methods what goes through it.

    Methods that need no gradient hear of a unit as soon as it has run; the others once the gradient
    of its input is there, when those of later units are already gone. Gradients of the data's, of
    sampled and of all possible labels go back through the same graph. What no method needs is not
    computed: gradients of parameters, and whatever lies before the first unit. The model must be
    inside :func:`preserved`; the sweep is a context.

    Args:
        subject: what is studied.
        methods: who listens.

    Attributes:
        batches: how many have gone through.
        samples: how many samples they held.
        notes: what a reader of the results must know.
        first: the place of the batch's first sample among all, whoever runs the others; if it is
            not said, they all ran here.
    """

    def __init__(self, subject: Subject, methods: Sequence[SweepMethod]) -> None:
        self.subject, self.methods = subject, list(methods)
        self.batches = self.samples = 0
        self.first: int | None = None
        self.notes: tuple[str, ...] = ()
        self._phases = _phases(self.methods)
        self._by_phase = {p: [m for m in self.methods if _phase(m) == p] for p in self._phases}
        self._plain = [m for m in self.methods if _phase(m) is None]
        self._forward = [m for m in self._plain if _hears(m, "unit")]
        self._now = Now(differentiates=bool(self._phases))
        self._passages = Passages(subject, self._now, self._tell_forward, self._tell_backward)
        self._collector: Collector | None = None
        self._required: list[tuple[Tensor, bool]] = []
        self._handles: list[Any] = []
        self._own: dict[str, list[Any]] = {}  # those of one method alone
        self._inputs = Inputs(subject.model, self._now)
        self._backwards = len(self._phases)

    @property
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes a batch."""
        return 1, self._backwards

    def resumed(self, backwards: int) -> None:
        """Learns how many backward passes a batch took that others ran."""
        self._backwards = max(self._backwards, backwards)

    @property
    def missing(self) -> dict[str, str]:
        """Units that nothing can be said about, with the reason."""
        silent = self._passages.silent
        found = {u.name: silent[u.path] for u in self.subject.units if u.path in silent}
        return found | (self._collector.refusals() if self._collector else {})

    # begin and end

    def __enter__(self) -> "Sweep":
        with ExitStack() as stack:
            stack.callback(self._end)
            stack.enter_context(opened(self.subject.model))
            self._begin()
            self._opened = stack.pop_all()
        return self

    def _begin(self) -> None:
        self._required = [(p, p.requires_grad) for p in self.subject.model.parameters()]
        if any("per_sample" in m.needs and _hears(m, "parameters") for m in self.methods):
            self._collector = Collector(self.subject, self._now)
            self._handles += self._collector.watch()
            check(self._collector)
            self.notes = summary(self._collector.owners.values())
        if self._phases:
            self._require_what_is_needed()
        self._handles += self._passages.watch()
        for method in self.methods:
            own = self._own.setdefault(method.name, [])
            for path in method.inputs(self.subject):
                tell = _telling(self._now, method)
                own.append(self._inputs.watch(path, method.name, tell))
            own.extend(method.hooks(self.subject))

    def _require_what_is_needed(self) -> None:
        needed = {id(p) for p in self._in_the_graph()}
        if self._needs_parameter_gradients:
            modules = [self.subject.module(unit) for unit in self.subject.units]
            needed |= {id(p) for module in modules for p in module.parameters()}
            needed -= {id(p) for owner in self._summed() for p in owner.parameters}
        for parameter, required in self._required:
            parameter.requires_grad_(required and id(parameter) in needed)

    @property
    def _needs_parameter_gradients(self) -> bool:
        return any("parameter_gradients" in method.needs for method in self.methods)

    def _summed(self) -> list[Owner]:
        """Owners whose parameters' gradients come with their norms, not with the backward pass."""
        asked = [p for p in self._phases if self._asks(p, "parameter_gradients")]
        if self._collector is None or not all(self._asks(p, "per_sample") for p in asked):
            return []
        found = [owner for owner in self._collector.owners.values() if owner.sums]
        self._collector.summed = frozenset(owner.path for owner in found)
        heard = [p for p in self._phases if self._asks(p, "per_sample")]
        self._collector.always = heard == asked
        return found

    def _asks(self, phase: Phase, need: Need) -> bool:
        return any(need in method.needs for method in self._by_phase[phase])

    def _in_the_graph(self) -> list[Tensor]:
        """Parameters whose per-sample gradients only a loop through the graph gives."""
        owners = self._collector.owners.values() if self._collector else ()
        return [p for owner in owners if owner.way == "loop" for p in owner.parameters]

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def _end(self) -> None:
        for handle in [*self._handles, *itertools.chain(*self._own.values())]:
            handle.remove()
        self._handles.clear()
        self._own.clear()
        self._passages.clear()
        if self._collector is not None:
            self._collector.begin_batch()
        for parameter, required in self._required:
            parameter.requires_grad_(required)
            parameter.grad = None

    # batches

    def run(self, batch: Any) -> None:
        """Sends one batch through."""
        subject = self.subject
        self._passages.begin_batch(batch)
        self._inputs.begin_batch()
        if self._collector is not None:
            self._collector.begin_batch()
        with subject.telling(batch):
            for method in self.methods:
                method.before(batch)
        with torch.set_grad_enabled(bool(self._phases)):
            output = subject.forward(batch)
        seen = torch.empty(0)  # what those who need no gradients learn of the losses
        done = 0
        for phase in self._phases:
            losses = torch.zeros(())
            for labels, probability, last in self._answers(phase, output, batch):
                each = subject.losses(output, batch, labels)
                self._back(phase, each, probability, last=last)
                done += 1
                each = each.detach()
                losses = each if probability is None else losses + probability * each
            seen = losses if phase == "data" else seen
            self._tell_batch(batch, output, losses, phase, self._by_phase[phase])
        self._tell_batch(batch, output, seen, "data", self._plain)
        self._passages.clear()
        self._backwards = max(self._backwards, done)
        self.batches += 1
        self.samples += size(batch)

    def _answers(
        self, phase: Phase, output: Any, batch: Any
    ) -> Iterator[tuple[Any, Tensor | None, bool]]:
        """Labels of each backward pass, how likely they are, and whether it is the last of all."""
        task, final = self.subject.task, phase == self._phases[-1]
        if phase == "data":
            yield None, None, final
        elif phase == "sampled":
            first = self.samples if self.first is None else self.first
            draws = Draws(self.subject.seed, first, size(batch), self.subject.device)
            yield task.sample(output, batch, draws), None, final
        else:
            answers = task.enumerate(output, batch)
            for number, (labels, probability) in enumerate(answers):
                yield labels, probability, final and number + 1 == len(answers)

    def _back(
        self, phase: Phase, losses: Tensor, probability: Tensor | None, *, last: bool
    ) -> None:
        self._now.phase, self._now.last, self._now.samples = phase, last, len(losses)
        for parameter, _ in self._required:
            parameter.grad = None
        if self._collector is not None:
            self._collector.begin_pass(
                losses,
                listens=self._asks(phase, "per_sample"),
                sums=self._asks(phase, "parameter_gradients"),
            )
        roots = self._roots(phase)
        if losses.requires_grad and roots != []:
            losses.sum().backward(retain_graph=not last, inputs=roots)
        for root in self._passages.roots:
            root.grad = None
        with torch.no_grad():
            self._passages.end_pass()
            self._tell_parameters(phase, probability, len(losses))

    def _roots(self, phase: Phase) -> list[Tensor] | None:
        """Where a pass ends that no gradient of parameters is needed of; ``None``: everywhere."""
        if not self._needs_parameter_gradients or self._asks(phase, "parameter_gradients"):
            return None
        owners = self._collector.owners.values() if self._collector else ()
        # what streams are made of inside of units without a formula, for want of a better word
        inner = [p for owner in owners if owner.way != "formula" for p in owner.parameters]
        return [*self._passages.roots, *inner]

    def drop(self, names: Container[str]) -> None:
        """Tells the named methods nothing more; passes stay what they are."""
        for told in (self.methods, self._plain, self._forward, *self._by_phase.values()):
            told[:] = [method for method in told if method.name not in names]
        for handle in itertools.chain(*(own for name, own in self._own.items() if name in names)):
            handle.remove()

    # telling

    def _tell_forward(self, event: UnitEvent) -> None:
        for method in self._forward:
            method.unit(event)

    def _tell_backward(self, event: UnitEvent) -> None:
        for method in self._by_phase[event.phase]:
            if _hears(method, "unit"):
                method.unit(event)

    def _tell_parameters(self, phase: Phase, probability: Tensor | None, samples: int) -> None:
        if self._collector is None or not self._collector.listens:
            return
        found = self._collector.end_pass()
        one = torch.ones(samples, dtype=torch.float64) if probability is None else probability
        for unit in self.subject.units:
            if unit.name not in found:
                continue
            squares, products = found[unit.name]
            event = ParameterEvent(
                unit=unit, squares=squares, products=products, probability=one, phase=phase
            )
            for method in self._by_phase[phase]:
                if "per_sample" in method.needs:
                    method.parameters(event)

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


def _phase(method: SweepMethod) -> Phase | None:
    """The backward pass that a method listens to."""
    if "exact" in method.needs:
        return "exact"
    if "sampled" in method.needs:
        return "sampled"
    return "data" if method.needs & _BACKWARD else None


def _telling(now: Now, method: SweepMethod) -> Callable[[InputEvent], None]:
    phase = _phase(method)

    def tell(event: InputEvent) -> None:
        if now.phase == phase:
            method.input(event)

    return tell


def _phases(methods: Sequence[SweepMethod]) -> list[Phase]:
    # the data's last: gradients of parameters come while the graph goes
    order: tuple[Phase, ...] = ("sampled", "exact", "data")
    return [phase for phase in order if any(_phase(m) == phase for m in methods)]


def _hears(method: SweepMethod, what: str) -> bool:
    return getattr(type(method), what) is not getattr(SweepMethod, what)
