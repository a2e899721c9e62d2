"""Each batch as a task: half of it to learn from, half of it to be judged by."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from layer_importance._batch import size, take
from layer_importance._subject import Subject
from layer_importance._units import Unit

Gradients = dict[int, Tensor]
"""Gradients by identity of their parameter."""


@dataclass(frozen=True, slots=True)
class Halves:
    """Support and query samples of one task."""

    support: Any
    query: Any


def halves(batch: Any) -> Halves | None:
    """Returns every other sample of a batch as support, the rest as query; ``None`` below two."""
    count = size(batch)
    if count < 2:
        return None
    return Halves(take(batch, list(range(0, count, 2))), take(batch, list(range(1, count, 2))))


def gradients(subject: Subject, batch: Any, parameters: list[Parameter]) -> Gradients:
    """Returns the gradient of the mean loss for each parameter; zeros where it does not matter."""
    losses = subject.losses(subject.forward(batch), batch)
    found = torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
    return {
        id(p): torch.zeros_like(p) if g is None else g
        for p, g in zip(parameters, found, strict=True)
    }


def own_parameters(subject: Subject) -> tuple[dict[str, list[Parameter]], dict[str, str]]:
    """Returns the parameters of each unit that can learn, and why the others cannot.

    A module that runs several times has its parameters in the unit of its first call.
    """
    found: dict[str, list[Parameter]] = {}
    reasons: dict[str, str] = {}
    first: dict[str, Unit] = {}
    for unit in subject.units:
        free = [p for p in subject.module(unit).parameters() if p.requires_grad]
        if unit.path in first:
            reasons[unit.name] = f"shares its parameters with {first[unit.path].name}"
        elif not free:
            reasons[unit.name] = "has no parameter that requires gradients"
        else:
            found[unit.name] = free
        first.setdefault(unit.path, unit)
    return found, reasons


def dot(parameters: list[Parameter], one: Gradients, other: Gradients) -> float:
    """Returns the inner product of two gradients over some parameters, in float64."""
    return float(sum((one[id(p)].double() * other[id(p)].double()).sum() for p in parameters))


@contextmanager
def stepped(parameters: list[Parameter], along: Gradients, step: float) -> Iterator[None]:
    """Parameters one step down a gradient inside, bit for bit as they were afterwards."""
    kept = [(p, p.data) for p in parameters]
    try:
        for parameter, values in kept:
            parameter.data = values - step * along[id(parameter)]
        yield
    finally:
        for parameter, values in kept:
            parameter.data = values
