"""The training run behind :class:`DNMFramework`: what it hears, and the morpher made of it."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from neuro_morph._dnm_listening import InputTap, OptimizerWatch
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._inputs import ExampleInputs
from neuro_morph._morpher import Morpher
from neuro_morph._spec import ArchitectureSpec, known_spec
from neuro_morph._wrappers import unwrap


class Run:
    """A run whose model and optimizers are known, or found while it trains.

    Args:
        model: the model.
        optimizer: what trains it; None to find it.
        example_inputs: what it is called with; None to listen.
        others: see :class:`Morpher`.
        log: see :class:`Morpher`.
        seed: see :class:`Morpher`.
        spec: see :class:`Morpher`.

    Raises:
        TypeError: if ``model`` is no module or ``example_inputs`` are no arguments.
        ValueError: if the model does not have the shapes that ``spec`` ends with.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Iterable[Optimizer] | None,
        example_inputs: Any,
        *,
        others: Iterable[Any],
        log: str | Path | None,
        seed: int,
        spec: ArchitectureSpec | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self._wrapped, self.inner = model, unwrap(model)
        given = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer or ())
        self._inputs = None if example_inputs is None else ExampleInputs.of(example_inputs)
        # on the outermost wrapper: what torch.compile has compiled stays whole
        self._tap = InputTap(model if example_inputs is None else None)
        self._watch = OptimizerWatch(self.inner, given)
        weakref.finalize(self, self._tap.close)
        self._settings: dict[str, Any] = {"others": list(others), "log": log, "seed": seed}
        self._settings["spec"] = spec
        if spec is not None:
            spec.check_result(self.inner)
        self.morpher: Morpher | None = None
        self._marked, self._epoch = 0, 0
        self.parameters = sum(p.numel() for p in self.inner.parameters())

    @property
    def model(self) -> nn.Module:
        """The model to train on."""
        return self._wrapped if self.morpher is None else self.morpher.wrapped

    @property
    def events(self) -> list[MorphogenesisEvent]:
        """All that was done."""
        return [] if self.morpher is None else self.morpher.events

    @property
    def spec(self) -> ArchitectureSpec:
        """The edits that the model has grown by."""
        if self.morpher is not None:
            return self.morpher.spec
        return self._settings["spec"] or known_spec(self.inner) or ArchitectureSpec()

    def end_epoch(self) -> None:
        """Counts the optimizer steps of the epoch that ends."""
        taken, self._marked = self._watch.steps - self._marked, self._watch.steps
        self._epoch = taken or self._epoch

    def epoch_steps(self) -> int:
        """Returns the optimizer steps of the last epoch.

        Raises:
            GrowthRefusedError: if there was none.
        """
        found = self._epoch or self._watch.steps
        if not found:
            raise GrowthRefusedError(
                "it is not known how many steps an epoch has, over which new units are to come in: "
                "train for an epoch first, or set progressive_activation_epochs to 0"
            )
        return found

    def ready(self) -> bool:
        """Whether the model's inputs and optimizers are known."""
        known = self._inputs is not None or self._tap.latest is not None
        return known and bool(self._watch.optimizers)

    @contextmanager
    def at_rest(self) -> Iterator[Morpher]:
        """Gives the morpher, while nothing that the model is called with is listened to.

        Raises:
            GrowthRefusedError: if inputs or optimizers are not known yet.
        """
        with self._tap.at_rest():
            yield self._morpher()

    @contextmanager
    def without_used_gradients(self) -> Iterator[None]:
        """Takes away gradients that a step has used; where nothing has grown they are put back."""
        before = len(self.events)
        taken = self._watch.take_used_gradients()
        try:
            yield
        finally:
            if not any(e.decision == "committed" for e in self.events[before:]):
                for parameter, grad in taken:
                    parameter.grad = grad

    def rewrap(self) -> None:
        """Makes the wrappers of a model anew that has grown."""
        if self.morpher is not None:
            self.morpher.rewrap()

    def close(self) -> None:
        """Stops listening."""
        self._tap.close()
        self._watch.close()

    def _morpher(self) -> Morpher:
        inputs = self._inputs or self._tap.latest
        if inputs is None:
            raise GrowthRefusedError(
                "it is not known what the model is called with: run it on a batch first, or pass "
                "example_inputs"
            )
        if not self._watch.optimizers:
            raise GrowthRefusedError(
                "no optimizer that holds the model's parameters has made a step: train first, or "
                "pass optimizer"
            )
        if self.morpher is None:
            self.morpher = Morpher(self._wrapped, (), example_inputs=inputs, **self._settings)
        for optimizer in self._watch.optimizers:
            if not any(optimizer is known for known in self.morpher.optimizers):
                self.morpher.optimizers.append(optimizer)
                self.morpher.slots.watch(optimizer)
        self.morpher.steps = self._watch.steps
        return self.morpher
