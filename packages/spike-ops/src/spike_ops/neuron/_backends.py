"""Which backend runs a neuron, and why: the choice, and the kernels built for its settings."""

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor

from spike_ops.neuron._kernel import Kernels, kernels

if TYPE_CHECKING:
    from spike_ops.neuron._base import Neuron

Backend = Literal["auto", "reference", "eager", "compiled", "triton"]
BACKENDS = ("auto", "reference", "eager", "compiled", "triton")


class Choice(NamedTuple):
    """Which backend runs a neuron on an input, and why."""

    backend: str
    reason: str


def chosen(neuron: "Neuron", currents: Tensor) -> Choice:
    """Return which backend runs a neuron on these currents, and why: `Neuron.explain`."""
    hindrance = neuron._hindrance(currents)
    if neuron.backend == "reference":
        return Choice("reference", "as asked")
    if neuron.backend == "compiled":
        if hindrance:
            raise ValueError(f"backend 'compiled' cannot run here: {hindrance}")
        return Choice("compiled", "as asked")
    if neuron.backend != "auto":
        raise ValueError(f"{type(neuron).__name__} has no backend {neuron.backend!r}")
    if hindrance:
        return Choice("reference", hindrance)
    if neuron._is_built(currents.dtype):
        return Choice("compiled", "built for this type")
    return Choice("reference", "needs no compiler; build(neuron, currents) makes a faster one")


def hindrance(neuron: "Neuron", currents: Tensor) -> str:
    """Return why no kernel can run a neuron on these currents; nothing if one can."""
    if not neuron.elementwise:
        return f"{type(neuron).__name__} mixes neurons within a step"
    if neuron._has_own_step:
        return f"{type(neuron).__name__} has a step that is not its transition"
    if torch.compiler.is_compiling():
        return "torch.compile fuses the steps itself"
    if currents.device.type != "cpu":
        return f"no kernel for {currents.device.type}"
    if currents.dtype not in {torch.float32, torch.float64}:
        return f"no kernel for {currents.dtype}"
    return ""


def kernels_of(neuron: "Neuron", dtype: torch.dtype) -> Kernels:
    """Return a neuron's kernels of a type, built once for the same settings."""
    settled, held = neuron._settled(), neuron._kernels.get(dtype)
    if held is not None and held[0] == settled:
        return held[1]
    example = torch.zeros(1, 1, dtype=dtype, device="cpu")
    counts = len(neuron.initial(example)), len(neuron.constants())
    made = kernels(neuron.transition, *counts, dtype)
    neuron._kernels[dtype] = (settled, made)
    return made
