"""Edits of a network as transactions: done, checked, kept or undone."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neuro_morph._checking import outputs_of, tolerance_of
from neuro_morph._edit import Edit, Site
from neuro_morph._edit_together import Together, carry_out_together
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._event_log import EventLog
from neuro_morph._graph import GrowthGraph, chosen_outputs
from neuro_morph._inputs import ExampleInputs
from neuro_morph._slots import SlotTable
from neuro_morph._snapshot import Snapshot
from neuro_morph._spec import ArchitectureSpec
from neuro_morph._work import Work
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
        if isinstance(edit, Together):
            return carry_out_together(self, edit, reason)
        work = Work(self, edit, reason)
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
