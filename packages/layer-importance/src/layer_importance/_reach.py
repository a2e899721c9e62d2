"""Where the gradient of the loss gets to."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layer_importance._chains import is_packed
from layer_importance._preserve import preserved
from layer_importance._structure import stream, with_stream

if TYPE_CHECKING:
    from layer_importance._subject import Subject

NOWHERE = (
    "needs gradients, and the loss has none: it is detached, or made of something without a "
    "derivative, as argmax and quantised layers are"
)
NOT_HERE = "no gradient of the loss reaches it"


@dataclass(frozen=True, slots=True)
class Reached:
    """Where the gradient of a loss gets to, as far as one batch tells.

    Attributes:
        loss: whether it has one at all, with respect to what units hand on.
        cut: paths of units that it depends on and whose output has no gradient of it.
    """

    loss: bool = True
    cut: frozenset[str] = frozenset()


def reached(subject: "Subject") -> Reached:
    """Returns where the gradient of the first batch's loss gets to; the model stays as it is.

    Zeros are added to what every unit hands on, and asked for their gradient. A unit without one
    that changes no loss when its output does has a gradient of zero; of any other, it is cut off.
    Where nobody can tell, as without labels or a way to draw some, nothing is taken for cut off.
    """
    if not subject.has_labels and not subject.can_sample:
        return Reached()
    try:
        with preserved(subject.model, gradients=True):
            return _reached(subject)
    except RuntimeError:  # an operation on the way has no derivative, and says so
        return Reached()


def _reached(subject: "Subject") -> Reached:
    batch, labels = subject.first, None

    def losses(output: Any) -> Tensor:
        return subject.losses(output, batch, labels, finite=False)

    probes: dict[str, list[Tensor]] = {}
    with _changed(subject, lambda path, y: y + _probe(probes, path, y)):
        output = subject.forward(batch)
    if not subject.has_labels:
        labels = subject.task.sample(output, batch, subject.generator())
    usual = losses(output)
    if not usual.requires_grad:
        return Reached(loss=False)
    usual.sum().backward()
    if all(p.grad is None for found in probes.values() for p in found) and _quantised(subject):
        return Reached(loss=False)
    dark = {path for path, found in probes.items() if all(p.grad is None for p in found)}
    cut = set()
    for one in dark:
        with torch.no_grad(), _changed(subject, partial(_other, one)):
            if not torch.equal(losses(subject.forward(batch)), usual):
                cut.add(one)
    return Reached(cut=frozenset(cut))


def _quantised(subject: "Subject") -> bool:
    return any(is_packed(module) for module in subject.model.modules())


def _probe(probes: dict[str, list[Tensor]], path: str, y: Tensor) -> Tensor:
    found = torch.zeros_like(y, requires_grad=True)
    probes.setdefault(path, []).append(found)
    return found


def _other(changed: str, path: str, y: Tensor) -> Tensor:
    if path != changed:
        return y
    steps = torch.linspace(-1, 1, max(y.numel(), 1), device=y.device)[: y.numel()]
    return y + steps.reshape(y.shape).to(y.dtype)


@contextmanager
def _changed(subject: "Subject", change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Changes what every unit hands on."""
    handles = []
    for path in {unit.path for unit in subject.units}:

        def after(module: Any, args: Any, kwargs: Any, output: Any, path: str = path) -> Any:
            y = stream(output, like=stream((args, kwargs)))
            if y is None or torch._C._current_graph_task_id() != -1:
                return None
            return with_stream(output, y, change(path, y))

        module = subject.model.get_submodule(path)
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
