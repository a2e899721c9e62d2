"""Laws about runs: what is declared is what happens, and the model stays as it was."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from layer_importance._examined import Examined
from layer_importance._method import Method
from layer_importance._scores import MethodScores
from layer_importance._specimens import UNITS, Specimen, classifier

_DIRECTIONS = ("importance", "diagnostic")


def declaration(it: Examined) -> None:
    """Name, unit of measure, direction and costs are given, and the scores keep to them."""
    method, scores = it.method, it.intact
    _must(isinstance(method, Method), f"a method must be a Method, got {type(method).__name__}")
    _must(bool(getattr(method, "name", "")), "it has no name")
    _must(method.direction in _DIRECTIONS, f"direction must be one of {_DIRECTIONS}")
    _must(scores.method == method.name, f"its scores are called {scores.method!r}")
    _must(scores.direction == method.direction, f"its scores have direction {scores.direction!r}")
    _must(bool(scores.measure), "its values have no unit of measure")
    forwards, backwards = method.passes(UNITS)
    _must(forwards >= 0 and backwards >= 0, f"passes must be at least 0, got {forwards, backwards}")


def completeness(it: Examined) -> None:
    """Every unit has a finite score or a reason; the whole of it can be kept as JSON."""
    names = set(classifier().units)
    scores = it.intact
    _must(set(scores) <= names, f"it scores what is no unit: {sorted(set(scores) - names)}")
    for name in sorted(names):
        _must(
            name in scores or bool(scores.missing.get(name)), f"{name} has no score and no reason"
        )
    for name, score in scores.items():
        _must(math.isfinite(score.value), f"{name} has {score.value}")
        _must(not score.standard_error < 0, f"{name} has a negative standard error")
    again = MethodScores.from_dict(json.loads(json.dumps(scores.to_dict(), allow_nan=False)))
    _must(again.to_dict() == scores.to_dict(), "its scores are others after being kept as JSON")


def _must(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def untouched(it: Examined) -> None:
    """The model is bit for bit as it was, also when something in it fails on the way."""
    specimen = classifier()
    parameter = next(specimen.model.parameters())
    parameter.grad = torch.ones_like(parameter)
    with counted(specimen) as calls:
        before = _everything(specimen.model)
        it.scores(specimen)
        _compare(before, _everything(specimen.model), "after a run")
    for fraction in (0.5, 1.0):
        specimen = classifier()
        with _failing(specimen, max(1, int(fraction * calls.calls))):
            before = _everything(specimen.model)
            with suppress(_PlantedError):
                it.report(specimen)
            _compare(before, _everything(specimen.model), "after an error")


def passes(it: Examined) -> None:
    """No more passes than declared: those of the sweep it shares and ``passes(units)`` of its own.

    Counted are calls of units and gradients that reach them, by the number of units.
    """
    specimen = classifier()
    found = []
    # discovery and trials before the first batch are the same for one batch as for three
    for sizes in ((16,), (16, 16, 16)):
        with counted(specimen) as calls:
            it.scores(specimen, specimen.batches(*sizes))
        found.append((calls.forwards / UNITS / 16, calls.backwards / UNITS / 16))
    measured = [(many - one) / 2 for one, many in zip(*found, strict=True)]
    own, shared = it.method.passes(UNITS), it.intact.shared
    declared = (own[0] + shared, own[1] + (it.intact.backwards if shared else 0))
    for what, ran, allowed in zip(("forward", "backward"), measured, declared, strict=True):
        _must(
            ran <= allowed + 1e-9,
            f"{ran:.3g} {what} passes a batch, {allowed:.3g} were declared",
        )


@dataclass(slots=True)
class Calls:
    """How many samples went through units, and gradients of how many came back."""

    calls: int = 0
    forwards: int = 0
    backwards: int = 0


@contextmanager
def counted(specimen: Specimen) -> Iterator[Calls]:
    """Counts what goes through the units of a specimen, inside."""
    calls = Calls()

    def forward(module: nn.Module, args: Any, output: Any) -> None:
        calls.calls += 1
        calls.forwards += len(output)
        if output.requires_grad and not torch._C._functorch.is_functorch_wrapped_tensor(output):
            output.register_hook(backward)

    def backward(grad: Any) -> None:
        calls.backwards += len(grad)

    # inside of units: what stands in for a whole unit does not run it
    modules = [specimen.model.get_submodule(f"{path}.up") for path in specimen.units]
    handles = [module.register_forward_hook(forward) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


class _PlantedError(RuntimeError):
    pass


@contextmanager
def _failing(specimen: Specimen, at: int) -> Iterator[None]:
    """A unit fails at the call of this number, inside."""
    left = [at]

    def fails(module: nn.Module, args: Any, output: Any) -> None:
        left[0] -= 1
        if not left[0]:
            raise _PlantedError("planted")

    modules = [specimen.model.get_submodule(f"{path}.up") for path in specimen.units]
    handles = [module.register_forward_hook(fails) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _everything(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {"random state": torch.get_rng_state().tolist()}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[name] = tensor.detach().clone()
        found[f"{name}.grad"] = None if tensor.grad is None else tensor.grad.clone()
        found[f"{name}.requires_grad"] = tensor.requires_grad
    for name, module in model.named_modules():
        hooks = [list(getattr(module, a)) for a in vars(module) if a.endswith("_hooks")]
        found[f"{name} (mode, hooks, attributes)"] = (module.training, hooks, sorted(vars(module)))
    return found


def _compare(before: dict[str, Any], after: dict[str, Any], when: str) -> None:
    for name in before.keys() | after.keys():
        a, b = before.get(name), after.get(name)
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            same = torch.equal(a, b)
        else:
            same = type(a) is type(b) and a == b
        _must(same, f"{when}, {name} of the model is another")
