"""Calls of a module with their gradients, and what they say sample by sample."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from layer_importance._layout import Layout
from layer_importance._per_sample import formula_of
from layer_importance._per_sample._formula import LIMIT, Aside, Norms
from layer_importance._per_sample.alone import Again, one_by_one, vmapped
from layer_importance._per_sample.owners import Owner

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
        held: the tensors in it.
        versions: how often each of them had been written into by then.
        y: what came out, where it spares work.
        y_version: how often that had been written into.
        grad: the gradient of what came out.
        kept: what a formula worked out of the inputs, for further backward passes.
    """

    owner: Owner
    key: Key
    inputs: tuple[tuple[Any, ...], dict[str, Any]] | None
    held: list[Tensor]
    versions: list[int]
    y: Tensor | None
    y_version: int
    grad: Tensor | None = None
    kept: dict[str, Tensor] = field(default_factory=dict)

    def overwritten(self) -> bool:
        """Whether somebody wrote into what it was called with."""
        return self.versions != [t._version for t in self.held]

    def let_go(self) -> None:
        """Keeps nothing of the batch."""
        self.inputs = self.y = None
        self.held.clear()
        self.kept.clear()

    def operands(self, layout: Layout) -> _Operands:
        """Returns input, output gradient and output, samples first."""
        assert self.grad is not None
        x = self.held[0]
        unchanged = self.y is not None and self.y._version == self.y_version
        y = self.y.movedim(layout.y_axis, 0) if unchanged and self.y is not None else None
        # token ids are no stream: they are laid out as what comes out
        known = x.is_floating_point() and layout.x_axis >= 0
        x = x.movedim(layout.x_axis if known else layout.y_axis, 0)
        return x, self.grad.movedim(layout.y_axis, 0), y


def evaluate(
    calls: list[OwnerCall], layout: Layout | None, samples: int, aside: Aside | None = None
) -> Norms:
    """Returns ``|g_i|^2`` and ``<g_i, theta>`` over the owner's parameters, of all calls together.

    Raises:
        ValueError: if samples cannot be told apart, or there is no way for several calls.
    """
    if layout is None or layout.y_axis < 0:
        raise ValueError("its samples cannot be told apart")
    owner = calls[0].owner
    if owner.way == "formula":
        given = [call.operands(layout) for call in calls]
        return _by_formula(owner, given, samples, aside or Aside())
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


def _by_formula(owner: Owner, given: list[_Operands], samples: int, aside: Aside) -> Norms:
    """As many samples at a time as fit."""
    formula, module = formula_of(owner.module), owner.module
    assert formula is not None
    if any(len(x) % samples or len(grad) % samples for x, grad, _ in given):
        raise ValueError("its samples cannot be told apart")
    each = sum(formula.size(module, x, grad, samples) for x, grad, _ in given)
    if aside.asks:
        owner.gives_sum = all(formula.gives_sum(module, x, g, samples) for x, g, _ in given)
    if aside.sums is not None:
        each = max(each, 2 * sum(parameter.numel() for parameter in owner.parameters))
    step = max(1, LIMIT // max(each, 1))
    if step < samples:
        aside.kept = None
    parts = []
    for start in range(0, samples, step):
        count = min(step, samples - start)
        some = [_some(operands, start, count, samples) for operands in given]
        rows = [formula.rows(module, x, grad, count) for x, grad, _ in some]
        x, grad = (_joined([row[i] for row in rows]) for i in (0, 1))
        ys = [formula.rows(module, x, y, count)[1] for x, _, y in some if y is not None]
        y = _joined(ys) if len(ys) == len(some) else None
        parts.append(formula.norms(module, owner.names, x, grad, y, aside))
    if len(parts) == 1:
        return parts[0]
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
