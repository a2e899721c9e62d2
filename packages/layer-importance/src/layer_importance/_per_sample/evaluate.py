"""Calls of a module with their gradients, and what they say sample by sample."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layer_importance._layout import Layout
from layer_importance._per_sample import formula_of
from layer_importance._per_sample._formula import LIMIT, Norms
from layer_importance._per_sample.alone import Again, one_by_one, vmapped
from layer_importance._per_sample.owners import Owner
from layer_importance._structure import tensors

Key = tuple[str, tuple[str, ...]]
"""An owner's path and the units of which it is called."""
_Operands = tuple[Tensor, Tensor, Tensor | None]


@dataclass(slots=True)
class OwnerCall:
    """One call of an owner, until the gradient of its output is there.

    Attributes:
        owner: who was called.
        key: for which units.
        inputs: with what.
        versions: how often each tensor in ``inputs`` had been written into by then.
        y: what came out, where it spares work.
        y_version: how often that had been written into.
        grad: the gradient of what came out.
    """

    owner: Owner
    key: Key
    inputs: tuple[tuple[Any, ...], dict[str, Any]] | None
    versions: list[int]
    y: Tensor | None
    y_version: int
    grad: Tensor | None = None

    def overwritten(self) -> bool:
        """Whether somebody wrote into what it was called with."""
        assert self.inputs is not None
        return self.versions != [t._version for t in tensors(self.inputs)]

    def operands(self, layout: Layout) -> _Operands:
        """Returns input, output gradient and output, samples first."""
        assert self.inputs is not None
        assert self.grad is not None
        x = next(tensors(self.inputs))
        unchanged = self.y is not None and self.y._version == self.y_version
        y = self.y.movedim(layout.y_axis, 0) if unchanged and self.y is not None else None
        # token ids are no stream: they are laid out as what comes out
        known = x.is_floating_point() and layout.x_axis >= 0
        x = x.movedim(layout.x_axis if known else layout.y_axis, 0)
        return x, self.grad.movedim(layout.y_axis, 0), y


def evaluate(calls: list[OwnerCall], layout: Layout | None, samples: int) -> Norms:
    """Returns ``|g_i|^2`` and ``<g_i, theta>`` over the owner's parameters, of all calls together.

    Raises:
        ValueError: if samples cannot be told apart, or there is no way for several calls.
    """
    if layout is None or layout.y_axis < 0:
        raise ValueError("its samples cannot be told apart")
    owner = calls[0].owner
    if owner.way == "formula":
        return _by_formula(owner, [call.operands(layout) for call in calls], samples)
    if len(calls) > 1:
        raise ValueError("is called several times")
    (call,) = calls
    assert call.inputs is not None
    assert call.grad is not None
    again = Again(
        owner.module,
        owner.names,
        call.inputs,
        owner.axes or (),
        call.grad,
        layout.y_axis,
        samples,
    )
    return vmapped(again) if owner.way == "vmap" else one_by_one(again)


def _by_formula(owner: Owner, given: list[_Operands], samples: int) -> Norms:
    """As many samples at a time as fit."""
    formula, module = formula_of(owner.module), owner.module
    assert formula is not None
    if any(len(x) % samples or len(grad) % samples for x, grad, _ in given):
        raise ValueError("its samples cannot be told apart")
    each = sum(formula.size(module, x, grad, samples) for x, grad, _ in given)
    step = max(1, LIMIT // max(each, 1))
    parts = []
    for start in range(0, samples, step):
        count = min(step, samples - start)
        some = [_some(operands, start, count, samples) for operands in given]
        rows = [formula.rows(module, x, grad, count) for x, grad, _ in some]
        x, grad = (_joined([row[i] for row in rows]) for i in (0, 1))
        ys = [formula.rows(module, x, y, count)[1] for x, _, y in some if y is not None]
        y = _joined(ys) if len(ys) == len(some) else None
        parts.append(formula.norms(module, owner.names, x, grad, y))
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _some(operands: _Operands, start: int, count: int, samples: int) -> _Operands:
    if count == samples:
        return operands
    x, grad, y = (
        None if t is None else t.narrow(0, start * (each := len(t) // samples), count * each)
        for t in operands
    )
    assert x is not None
    assert grad is not None
    return x, grad, y


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
