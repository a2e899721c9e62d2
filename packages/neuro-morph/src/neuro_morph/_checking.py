"""Whether a model still computes what it did."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path

from neuro_morph._graph import evaluating
from neuro_morph._inputs import ExampleInputs


@dataclass(frozen=True)
class OutputChange:
    """How far two outputs of a model are from each other.

    Attributes:
        absolute: the largest difference of two numbers.
        relative: ``absolute`` over the largest of 1 and the largest number of the first output.
        finite: whether both outputs hold finite numbers only.
    """

    absolute: float
    relative: float
    finite: bool

    def within(self, tolerance: float) -> bool:
        """Whether the outputs are the same up to a relative ``tolerance``."""
        return self.finite and self.relative <= tolerance


def outputs_of(model: nn.Module, inputs: ExampleInputs) -> dict[str, Tensor]:
    """Returns the tensors a model gives in evaluation mode, by where they stand in its output.

    Random numbers and buffers are as they were afterwards.
    """
    state = torch.get_rng_state()
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    try:
        with evaluating(model), torch.no_grad():
            result = model(*inputs.args, **inputs.kwargs)
        found = tree_flatten_with_path(result)[0]
        return {
            torch.utils._pytree.keystr(p): v.detach().clone()
            for p, v in found
            if isinstance(v, Tensor)
        }
    finally:
        torch.set_rng_state(state)
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def change_between(before: dict[str, Tensor], after: dict[str, Tensor]) -> OutputChange:
    """Returns how far two outputs are from each other."""
    if before.keys() != after.keys() or any(before[k].shape != after[k].shape for k in before):
        return OutputChange(float("inf"), float("inf"), finite=False)
    absolute, relative, finite = 0.0, 0.0, True
    for key, old in before.items():
        mine, its = old.double(), after[key].double()
        if not mine.numel():
            continue
        finite = finite and bool(mine.isfinite().all() and its.isfinite().all())
        difference = float((mine - its).abs().max()) if finite else float("inf")
        absolute = max(absolute, difference)
        relative = max(relative, difference / max(1.0, float(mine.abs().max())))
    return OutputChange(absolute, relative, finite)


def tolerance_of(model: nn.Module) -> float:
    """Returns the relative change allowed for the coarsest dtype of a model's parameters."""
    known: dict[Any, float] = {torch.float64: 1e-12, torch.float32: 1e-5}
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return max((known.get(kind, 2e-2) for kind in kinds), default=1e-5)
