"""One edit being carried out: checked, and undone if it fails."""

import json
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from neuro_morph._added import enroll
from neuro_morph._averages import check_averages, grow_average
from neuro_morph._checking import OutputChange, change_between
from neuro_morph._counting import count_of, sizes_of_model
from neuro_morph._edit import Edit, Performed
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._fingerprint import Fingerprint
from neuro_morph._inputs import FailsOnInputsError
from neuro_morph._optimizer_state import check_optimizers, migrate
from neuro_morph._ramp import Ramp, new_entries
from neuro_morph._together import all_agree, take_from_first
from neuro_morph._undo import UndoLog
from neuro_morph._widen_checks import check_hooks
from neuro_morph._widening import tensors_of

if TYPE_CHECKING:
    from neuro_morph._morpher import Morpher


class Work:
    """One edit being carried out."""

    def __init__(
        self, morpher: "Morpher", edit: Edit, reason: str, gain: float | None = None
    ) -> None:
        self.morpher, self.edit, self.reason, self.gain = morpher, edit, reason, gain
        self.change: OutputChange | None = None
        self.performed = Performed()
        self.seconds: dict[str, float] = {}
        self.flops: list[int] = []  # of the runs that it is checked by
        self.parameters = count_of(morpher.model)
        self.shape = Fingerprint(morpher.model)

    def carry_out(self) -> MorphogenesisEvent:
        """Carries the edit out, notes it in the run's spec and events, and returns its event."""
        self._check_detail()
        self._check_gradients()
        exact = self.morpher.dynamics == "exact"
        check_optimizers(self.morpher.optimizers, exact=exact)
        check_averages(self.morpher.averages, self.morpher.model)
        wanted = self._timed("probe", self._probe)
        if not all(value.isfinite().all() for value in wanted.values()):
            raise GrowthRefusedError("the model's outputs on the example inputs are not finite")
        site = self._timed("capture", self.morpher.site)
        failures: list[str] = []
        for variant in self.edit.variants(site):
            found = self._carry_out(variant, wanted)
            if isinstance(found, MorphogenesisEvent):
                return found
            failures.append(found)
        raise GrowthRefusedError(f"{self.edit.op} of {self.edit.target!r}: {'; '.join(failures)}")

    def _carry_out(self, variant: Any, wanted: dict[str, Tensor]) -> MorphogenesisEvent | str:
        """Returns the event, or why the edit failed; whatever is raised, nothing of it stays."""
        log, morpher = UndoLog(), self.morpher
        steps, events, graph = len(morpher.spec.steps), len(morpher.events), morpher._graph
        try:
            failure = self._try(variant, log, wanted)
            if not all_agree(failure is None):
                failure = failure or "another process refuses"
            if failure is None:
                return self._commit(log)
            log.undo()
        except BaseException:
            del morpher.spec.steps[steps:], morpher.events[events:]
            morpher._graph = graph
            log.undo()
            raise
        return failure

    def _commit(self, log: UndoLog) -> MorphogenesisEvent:
        take_from_first(self._touched())
        detail = {**self.edit.detail(), **self.performed.built()}
        step = self.shape.step_to(Fingerprint(self.morpher.model), self.edit.op, detail)
        for average in self.morpher.averages:
            grow_average(average, self.morpher.model, step, self.performed, log)
        event = self.event("committed", None)
        json.dumps([event.to_json(), asdict(step)])  # what cannot be written down must not stand
        self.morpher.spec.steps.append(step)
        self.morpher.events.append(event)
        self.morpher._graph = None
        self.morpher._write(event)
        return event

    def _try(self, variant: Any, log: UndoLog, wanted: dict[str, Tensor]) -> str | None:
        """Returns why the edit failed, None if it stands."""
        try:
            self.performed = self._timed("edit", lambda: variant(log))
            self._timed("migrate", lambda: self._migrate(log))
            found = self._timed("check", self._probe)
        except GrowthRefusedError:
            raise
        except Exception as error:  # a model may fail in any way when its sizes change
            if isinstance(error, FailsOnInputsError) and isinstance(error.__cause__, Exception):
                error = error.__cause__
            return f"the model fails afterwards ({type(error).__name__}: {error})"
        self.change = change_between(wanted, found, rounded=self.performed.rounds())
        if self.change.within(self.morpher.tolerance):
            self._drop_unneeded(log, wanted)
            self._follow_names(log, wanted)
            return None
        return f"the output changes by {self.change.relative:.2g}{self.change.where}"

    def _probe(self) -> dict[str, Tensor]:
        with FlopCounterMode(display=False) as counter:
            found = self.morpher.probe()
        self.flops.append(int(counter.get_total_flops()))
        return found

    def _drop_unneeded(self, log: UndoLog, wanted: dict[str, Tensor]) -> None:
        """Gives numbers their old values that only happened to be those of a size that grew."""
        model, kept = self.morpher.model, self.performed.attributes
        sizes = [edit for edit in kept if isinstance(edit.new, int)]
        for edit in sizes if len(sizes) > 1 else ():
            log.set_attributes(model, [replace(edit, new=edit.old)])
            if self._still_the_same(wanted):
                kept.remove(edit)
            else:
                log.set_attributes(model, [edit])

    def _follow_names(self, log: UndoLog, wanted: dict[str, Tensor]) -> None:
        """Gives numbers their new values that are only named after what grew, if that is safe."""
        model = self.morpher.model
        held = [vars(model.get_submodule(e.path)).get(e.name) for e in self.performed.named]
        named = zip(self.performed.named, held, strict=True)
        stale = [edit for edit, value in named if value == edit.old != edit.new]
        log.set_attributes(model, stale)
        if stale and not self._still_the_same(wanted):
            log.set_attributes(model, [replace(edit, new=edit.old) for edit in stale])
        else:
            self.performed.attributes = [*self.performed.attributes, *stale]

    def _still_the_same(self, wanted: dict[str, Tensor]) -> bool:
        try:
            found, rounded = self.morpher.probe(), self.performed.rounds()
            change = change_between(wanted, found, rounded=rounded)
            self.performed.check()
        except Exception:  # a model may fail in any way when its sizes are wrong
            return False
        return change.within(self.morpher.tolerance)

    def _touched(self) -> list[Tensor]:
        held = tensors_of(self.morpher.model)
        names = [*(edit.name for edit in self.performed.tensors), *self.performed.added]
        return [held[name] for name in names]

    def _migrate(self, log: UndoLog) -> None:
        held = tensors_of(self.morpher.model)
        exact = self.morpher.dynamics == "exact"
        if exact and self.performed.inexact is not None:
            raise GrowthRefusedError(self.performed.inexact)
        check_hooks(self.morpher.model, [edit.name for edit in self.performed.tensors])
        for edit in self.performed.tensors:
            tensor = held[edit.name]
            for optimizer in self.morpher.optimizers:
                migrate(optimizer, tensor, edit, log, exact=exact)
            self.morpher.slots.grow(tensor, log.data_before(tensor), edit, log, exact=exact)
        enroll(self.morpher.model, self.morpher.optimizers, self.performed.added, log)
        edits = {edit.name: edit for edit in self.performed.tensors}
        for name, dim, columns, steps in self.performed.ramps:
            ramp = Ramp(dim, new_entries(edits[name], dim), steps)
            self.morpher.slots.add_ramp(held[name], ramp, columns, log)

    def _check_detail(self) -> None:
        try:
            json.dumps(self.edit.detail())
        except TypeError as error:
            kind = type(self.edit).__name__
            raise TypeError(f"{kind}.detail() must be what JSON can hold: {error}") from None

    def _check_gradients(self) -> None:
        waiting = [n for n, p in self.morpher.model.named_parameters() if p.grad is not None]
        if waiting:
            raise GrowthRefusedError(
                f"{waiting[0]!r} has a gradient: grow after the optimizer's step and "
                "zero_grad(), when there are none"
            )

    def _timed(self, part: str, work: Any) -> Any:
        start = time.perf_counter()
        try:
            return work()
        finally:
            spent = time.perf_counter() - start
            self.seconds[part] = self.seconds.get(part, 0.0) + spent

    def event(self, decision: str, why_not: str | None) -> MorphogenesisEvent:
        if not self.flops:  # it was refused before the model ran
            self.flops.append(sizes_of_model(self.morpher.model, self.morpher.inputs)[1])
        edits = self.performed.attributes if decision == "committed" else []
        return MorphogenesisEvent(
            id=len(self.morpher.events),
            step=self.morpher.steps,
            op=self.edit.op,
            target=self.edit.target,
            detail=self.edit.detail(),
            reason=self.reason,
            decision=decision,
            why_not=why_not,
            parameters_before=self.parameters,
            parameters_after=count_of(self.morpher.model),
            flops_before=self.flops[0],
            flops_after=self.flops[-1 if decision == "committed" else 0],
            absolute_change=self.change.absolute if self.change else None,
            relative_change=self.change.relative if self.change else None,
            attributes=tuple((e.path, e.name, e.old, e.new) for e in edits),
            seconds=self.seconds,
            gain=self.gain,
            note=self.performed.note if decision == "committed" else None,
        )
