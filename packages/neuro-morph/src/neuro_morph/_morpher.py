"""Edits of a network as transactions: done, checked, kept or undone."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neuro_morph._arguments import check_kind, check_least, check_number
from neuro_morph._checking import outputs_of, tolerance_of
from neuro_morph._edit import Edit, Site
from neuro_morph._edit_together import Together, carry_out_together
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._event_log import EventLog
from neuro_morph._graph import GrowthGraph, chosen_outputs
from neuro_morph._inputs import ExampleInputs
from neuro_morph._run_arguments import (
    averages_of,
    check_arguments,
    check_numbers,
    check_optimizers_of,
    names_of,
    optimizers_of,
    others_of,
)
from neuro_morph._run_file import load_run, save_run
from neuro_morph._run_snapshot import RunSnapshot
from neuro_morph._slots import SlotTable
from neuro_morph._spec import ArchitectureSpec, know_spec, known_spec
from neuro_morph._work import Work
from neuro_morph._wrappers import RewrapReminder, rewrap, unwrap


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
        unused: see :meth:`GrowthGraph.capture`.
        capture: see :meth:`GrowthGraph.capture`.
        tolerance: the largest relative change of an output that is accepted; None for 1e-12 in
            float64, 1e-5 in float32, 2e-2 below.
        dynamics: ``"exact"`` lets every optimizer see copies as what they are copies of, so that
            training goes on as if nothing had grown until :meth:`release`, but for what the loop
            does with gradients itself (clipping); ``"plain"`` lets it see what is there. Runs of
            one model on the same optimizers share what these see.
        log: a file that every event is added to, one line of JSON each; None for none. An event
            that cannot be written stands nonetheless, with a RuntimeWarning.
        seed: of new numbers.
        spec: the edits that the model has grown by already, as :func:`load_checkpoint` returns
            them; None for those that are known of in this process.

    Raises:
        TypeError: if ``model`` is no module, ``example_inputs`` are no arguments, or another
            argument is of another kind than it is to be.
        ValueError: if ``example_inputs`` hold a NaN, no optimizer holds a parameter of the model,
            ``tolerance`` is below 0, ``capture`` or ``dynamics`` is unknown, or the model does not
            have the shapes that ``spec`` ends with.
        GrowthRefusedError: if the model's parameters are sharded.
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
        unused: Sequence[str] = (),
        capture: str = "auto",
        tolerance: float | None = None,
        dynamics: str = "plain",
        log: str | Path | None = None,
        seed: int = 0,
        spec: ArchitectureSpec | None = None,
    ) -> None:
        check_arguments(model, capture=capture, dynamics=dynamics)
        self.wrapped = model
        self.model = unwrap(model)
        self.optimizers = optimizers_of(optimizer)
        self.others, self.averages = others_of(others), averages_of(averages)
        self.inputs = ExampleInputs.of(example_inputs)
        check_numbers(self.inputs)
        check_optimizers_of(self.model, self.optimizers)
        self.outputs = None if outputs is None else names_of("outputs", outputs)
        self._unused, self._capture = tuple(names_of("unused", unused)), capture
        self.tolerance = tolerance_of(self.model) if tolerance is None else tolerance
        check_least(0, tolerance=self.tolerance)
        check_number(whole=True, seed=seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.events: list[MorphogenesisEvent] = []
        self._reminder = RewrapReminder(model, self.optimizers, self.events)
        if spec is not None:
            check_kind(ArchitectureSpec, spec=spec)
        self.spec = spec or known_spec(self.model) or ArchitectureSpec()
        self.spec.check_result(self.model)
        know_spec(self.model, self.spec)
        self._log = None if log is None else EventLog(log)
        self.steps = 0
        self.policy: Policy | None = None
        self.dynamics = dynamics
        self.slots = SlotTable.of(self.optimizers, self.model)
        self._graph: GrowthGraph | None = None

    @property
    def graph(self) -> GrowthGraph:
        """The growth graph of the model as it is; found again after every edit, whoever made it."""
        if self._graph is None or not self._graph.fits(self.model):
            self._graph = GrowthGraph.capture(
                self.model,
                self.inputs,
                capture=self._capture,
                outputs=self.outputs,
                unused=self._unused,
            )
        return self._graph

    @torch.inference_mode(False)
    def apply(
        self, edit: Edit, *, reason: str = "asked for", gain: float | None = None
    ) -> MorphogenesisEvent:
        """Carries an edit out and returns what was measured.

        Whatever is raised, an interrupt included, nothing has changed then.

        Args:
            edit: the edit.
            reason: why, for the event.
            gain: what it was found to gain, for the event.

        Raises:
            GrowthRefusedError: if it cannot be done, the model's outputs are not finite, or it
                would not compute what it did.
            KeyError: if the edit names a group that is not there.
            RuntimeError: if the model cannot be run on ``example_inputs``.
            TypeError: if ``edit`` is no edit, or JSON cannot hold what it says of itself.
            ValueError: if the model has no entry of ``outputs``.
        """
        check_kind(Edit, edit=edit)
        self._reminder.remind()
        if isinstance(edit, Together):
            return carry_out_together(self, edit, reason, gain)
        work, random = Work(self, edit, reason, gain), self.generator.get_state()
        try:
            return work.carry_out()
        except BaseException as error:
            self.generator.set_state(random)
            if isinstance(error, GrowthRefusedError):
                self.note(work.event("refused", str(error)))
            raise

    def rewrap(self) -> nn.Module:
        """Returns the model to train on after an edit, in the wrappers it came in.

        DistributedDataParallel is made anew; every process must call this. Code compiled by
        ``torch.compile`` is dropped. Whoever trains on without it is warned at the next edit.
        """
        self.wrapped = rewrap(self.wrapped)
        self._reminder.rewrapped()
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
        self._write(event)

    def _write(self, *events: MorphogenesisEvent) -> None:
        """Adds events to the log; growth that stands does not fail for that of a disk."""
        if self._log is None:
            return
        try:
            self._log.add(*events)
        except OSError as error:
            for event in events:
                warnings.warn(
                    f"event {event.id} ({event.op} of {event.target!r}: {event.decision}) is not "
                    f"in {self._log.path}: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )

    def snapshot(self) -> RunSnapshot:
        """Returns the whole run's state; ``restore`` on it undoes edits and training alike."""
        return RunSnapshot(self)

    def save(self, path: str | Path) -> None:
        """Writes the run to a file, whole or not at all: what :meth:`load` goes on with.

        That is the model, its edits and events, optimizers and what they see otherwise than it is,
        averages, ``others``, the source of new numbers and the step; not the random states of the
        loop, and not what a policy knows (see :meth:`GrowthPolicy.state_dict`).

        Raises:
            TypeError: if one of them holds something that is neither a tensor nor a plain value.
            ValueError: if the edits cannot be done again without data (see :class:`Deepen`).
        """
        save_run(self, Path(path))

    def load(self, path: str | Path) -> None:
        """Fills a run that has not grown yet from a file of :meth:`save`.

        Raises:
            ValueError: if the file is of another model, other optimizers, averages or others;
                nothing has changed then.
        """
        load_run(self, Path(path))

    def release(self) -> None:
        """Lets the optimizers see all parameters as they are: copies train on their own."""
        self.slots.release()

    def probe(self) -> dict[str, Tensor]:
        """Returns the outputs that count, in evaluation mode, on the example inputs."""
        return dict(chosen_outputs(outputs_of(self.model, self.inputs), self.outputs))

    def site(self) -> Site:
        """Returns where edits work."""
        return Site(self.model, self.graph, self.inputs, self.generator, self.optimizers)
