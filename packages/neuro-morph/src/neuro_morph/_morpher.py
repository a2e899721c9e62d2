"""Edits of a network as transactions: done, checked, kept or undone."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from neuro_morph._added import enroll
from neuro_morph._averages import check_averages, grow_average
from neuro_morph._checking import OutputChange, change_between, outputs_of, tolerance_of
from neuro_morph._edit import Edit, Performed, Site
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._event_log import EventLog
from neuro_morph._graph import GrowthGraph, chosen_outputs, evaluating
from neuro_morph._inputs import ExampleInputs
from neuro_morph._optimizer_state import check_optimizers, migrate
from neuro_morph._ramp import Ramp, new_entries
from neuro_morph._slots import SlotTable
from neuro_morph._snapshot import Snapshot
from neuro_morph._spec import ArchitectureSpec, Fingerprint, Step
from neuro_morph._together import all_agree, take_from_first
from neuro_morph._undo import UndoLog
from neuro_morph._widening import tensors_of
from neuro_morph._wrappers import rewrap, unwrap


class Policy(Protocol):
    """What says when and where a run grows."""

    def step(self, loss: Any) -> MorphogenesisEvent | None:
        """Takes note of a training step; returns what has grown, if anything has."""
        ...


class Morpher:
    """Grows a model while it trains: every edit is checked, logged, and undone if it fails.

    Parameters keep their identity, so optimizers, schedulers and hooks go on working; what the
    optimizers hold grows with them.

    Args:
        model: any module.
        optimizer: the optimizer that trains it, or several; None for none.
        example_inputs: a tensor, a tuple of positional or a mapping of keyword arguments: what the
            model is called with when it is looked at and checked.
        others: anything with ``state_dict`` and ``load_state_dict`` that belongs to the run
            (schedulers, scalers): snapshots hold it.
        averages: copies of the model that hold means of its parameters, or wrappers of them with a
            ``module`` (``torch.optim.swa_utils.AveragedModel``): they grow with it.
        outputs: the entries of what the model returns that have to stay as they are; None for all.
        capture: see :meth:`GrowthGraph.capture`.
        tolerance: the largest relative change of an output that is accepted; None for 1e-12 in
            float64, 1e-5 in float32, 2e-2 below.
        dynamics: ``"exact"`` lets every optimizer see copies as what they are copies of, so that
            training goes on as if nothing had grown until :meth:`release`; ``"plain"`` lets it see
            what is there.
        log: a file that every event is added to, one line of JSON each; None for none.
        seed: of new numbers.

    Raises:
        TypeError: if ``model`` is no module or ``example_inputs`` are no arguments.
        ValueError: if the model's outputs on ``example_inputs`` are not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer] | None = None,
        *,
        example_inputs: Any,
        others: Iterable[Any] = (),
        averages: Iterable[nn.Module] = (),
        outputs: Sequence[str] | None = None,
        capture: str = "auto",
        tolerance: float | None = None,
        dynamics: str = "plain",
        log: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        self.wrapped = model
        self.model = unwrap(model)
        one = isinstance(optimizer, Optimizer)
        self.optimizers: list[Optimizer] = [optimizer] if one else list(optimizer or ())  # type: ignore[list-item,arg-type]
        self.others, self.averages = list(others), list(averages)
        self.inputs = ExampleInputs.of(example_inputs)
        self.outputs, self._capture = outputs, capture
        self.tolerance = tolerance_of(self.model) if tolerance is None else tolerance
        self.generator = torch.Generator().manual_seed(seed)
        self.events: list[MorphogenesisEvent] = []
        self.spec = ArchitectureSpec()
        self._log = None if log is None else EventLog(log)
        self.steps = 0
        self.policy: Policy | None = None
        if dynamics not in ("plain", "exact"):
            raise ValueError(f"dynamics must be 'plain' or 'exact', got {dynamics!r}")
        self.dynamics = dynamics
        self.slots = SlotTable(self.optimizers)
        self._graph: GrowthGraph | None = None

    @property
    def graph(self) -> GrowthGraph:
        """The growth graph of the model as it is; found again after every edit."""
        if self._graph is None:
            self._graph = GrowthGraph.capture(
                self.model, self.inputs, capture=self._capture, outputs=self.outputs
            )
        return self._graph

    def apply(self, edit: Edit, *, reason: str = "asked for") -> MorphogenesisEvent:
        """Carries an edit out and returns what was measured.

        Raises:
            GrowthRefusedError: if it cannot be done, or the model would not compute what it did;
                nothing has changed then.
            KeyError: if the edit names a group that is not there.
        """
        work = _Work(self, edit, reason)
        try:
            event = work.carry_out()
        except GrowthRefusedError as refusal:
            self.note(work.event("refused", str(refusal)))
            raise
        assert work.step is not None
        self.spec.steps.append(work.step)
        self._graph = None
        self.note(event)
        return event

    def rewrap(self) -> nn.Module:
        """Returns the model to train on after an edit, in the wrappers it came in.

        DistributedDataParallel is made anew; every process must call this. Code compiled by
        ``torch.compile`` is dropped.
        """
        self.wrapped = rewrap(self.wrapped)
        return self.wrapped

    def step(self, loss: Any) -> MorphogenesisEvent | None:
        """Tells the policy of this run of a training step; returns what has grown, if anything has.

        Call it after the optimizer's step, with the step's loss.

        Raises:
            RuntimeError: if no :class:`GrowthPolicy` was made for the run.
        """
        if self.policy is None:
            raise RuntimeError("this run has no policy: make a GrowthPolicy(morpher, ...) first")
        return self.policy.step(loss)

    def note(self, event: MorphogenesisEvent) -> None:
        """Adds an event to the run's, and to its log."""
        self.events.append(event)
        if self._log is not None:
            self._log.add(event)

    def snapshot(self) -> Snapshot:
        """Returns the whole run's state; ``restore`` on it undoes edits and training alike."""
        return Snapshot(self.model, self.optimizers, [*self.others, *self.averages, self.slots])

    def release(self) -> None:
        """Lets the optimizers see all parameters as they are: copies train on their own."""
        self.slots.release()

    def probe(self) -> dict[str, Tensor]:
        """Returns the outputs that count, in evaluation mode, on the example inputs."""
        return dict(chosen_outputs(outputs_of(self.model, self.inputs), self.outputs))

    def site(self) -> Site:
        """Returns where edits work."""
        return Site(self.model, self.graph, self.inputs, self.generator)


class _Work:
    """One edit being carried out."""

    def __init__(self, morpher: Morpher, edit: Edit, reason: str) -> None:
        self.morpher, self.edit, self.reason = morpher, edit, reason
        self.change: OutputChange | None = None
        self.performed = Performed()
        self.seconds: dict[str, float] = {}
        self.flops: list[int] = []  # of the runs that it is checked by
        self.parameters = _count(morpher.model)
        self.shape = Fingerprint(morpher.model)
        self.step: Step | None = None

    def carry_out(self) -> MorphogenesisEvent:
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
            log = UndoLog()
            failure = self._try(variant, log, wanted)
            if not all_agree(failure is None):
                failure = failure or "another process refuses"
            if failure is None:
                take_from_first(self._touched())
                detail = {**self.edit.detail(), **self.performed.built()}
                now = Fingerprint(self.morpher.model)
                self.step = self.shape.step_to(now, self.edit.op, detail)
                for average in self.morpher.averages:
                    grow_average(average, self.morpher.model, self.step, self.performed, log)
                return self.event("committed", None)
            log.undo()
            failures.append(failure)
        raise GrowthRefusedError(f"{self.edit.op} of {self.edit.target!r}: {'; '.join(failures)}")

    def _try(self, variant: Any, log: UndoLog, wanted: dict[str, Tensor]) -> str | None:
        """Returns why the edit failed, None if it stands."""
        try:
            self.performed = self._timed("edit", lambda: variant(log))
            self._timed("migrate", lambda: self._migrate(log))
            found = self._timed("check", self._probe)
        except GrowthRefusedError:
            log.undo()
            raise
        except Exception as error:  # a model may fail in any way when its sizes change
            return f"the model fails afterwards ({type(error).__name__}: {error})"
        except BaseException:
            log.undo()
            raise
        self.change = change_between(wanted, found)
        if self.change.within(self.morpher.tolerance):
            self._drop_unneeded(log, wanted)
            return None
        return f"the output changes by {self.change.relative:.2g}"

    def _probe(self) -> dict[str, Tensor]:
        with FlopCounterMode(display=False) as counter:
            found = self.morpher.probe()
        self.flops.append(int(counter.get_total_flops()))
        return found

    def _drop_unneeded(self, log: UndoLog, wanted: dict[str, Tensor]) -> None:
        """Gives numbers their old values that only happened to be those of a size that grew."""
        model, kept = self.morpher.model, self.performed.attributes
        for edit in list(kept) if len(kept) > 1 else ():
            log.set_attributes(model, [replace(edit, new=edit.old)])
            try:
                change = change_between(wanted, self.morpher.probe())
                needed = not change.within(self.morpher.tolerance)
            except Exception:  # a model may fail in any way when its sizes are wrong
                needed = True
            if needed:
                log.set_attributes(model, [edit])
            else:
                kept.remove(edit)

    def _touched(self) -> list[Tensor]:
        held = tensors_of(self.morpher.model)
        names = [*(edit.name for edit in self.performed.tensors), *self.performed.added]
        return [held[name] for name in names]

    def _migrate(self, log: UndoLog) -> None:
        held = tensors_of(self.morpher.model)
        exact = self.morpher.dynamics == "exact"
        if exact and self.performed.inexact is not None:
            raise GrowthRefusedError(self.performed.inexact)
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

    def _check_gradients(self) -> None:
        waiting = [n for n, p in self.morpher.model.named_parameters() if p.grad is not None]
        if waiting:
            raise GrowthRefusedError(
                f"{waiting[0]!r} has a gradient that no step has used: grow after the optimizer's "
                "step and zero_grad()"
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
            parameters_after=_count(self.morpher.model),
            flops_before=self.flops[0],
            flops_after=self.flops[-1 if decision == "committed" else 0],
            absolute_change=self.change.absolute if self.change else None,
            relative_change=self.change.relative if self.change else None,
            attributes=tuple((e.path, e.name, e.old, e.new) for e in edits),
            seconds=self.seconds,
        )


def sizes_of_model(model: nn.Module, inputs: ExampleInputs) -> tuple[int, int]:
    """Returns the parameters of a model and the FLOPs of a run, both counted."""
    with evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs.args, **inputs.kwargs)
    return _count(model), int(counter.get_total_flops())


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
