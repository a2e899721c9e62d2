"""Which calls of dynamic layers make up a pass through a model.

A layer that runs looks which modules are being called around it, and is part of a pass through each
of them. The first time they get a hook, which tells from then on where their passes begin.
"""

import sys
from collections.abc import Iterator
from itertools import count
from types import FrameType
from typing import TYPE_CHECKING, Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import nn
from torch._dynamo.eval_frame import skip_code

from adlrns_models import _observe
from adlrns_models._gate import Decision

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer


class Pass:
    """The calls of dynamic layers inside one call of a module.

    Attributes:
        newest: the number of the last of them, or of the beginning.
        calls: layers and what they decided, in the order they ran.
    """

    def __init__(self) -> None:
        self.newest = next(_numbers)
        self.calls: list[tuple[ReferenceType[DynamicLayer], Decision]] = []

    def known(self) -> "list[tuple[DynamicLayer, Decision]]":
        """Returns the calls of layers that there still are."""
        found = ((layer(), decision) for layer, decision in self.calls)
        return [(layer, decision) for layer, decision in found if layer is not None]


_numbers = count(1)
# not in the modules: a copy of one has not been called, and decisions hold graphs
_last_passes: "WeakKeyDictionary[nn.Module, Pass]" = WeakKeyDictionary()
_CALL = nn.Module._call_impl.__code__


def last_pass(module: nn.Module) -> Pass | None:
    """Returns the last call of ``module``, None if no dynamic layer has ever run inside one."""
    return _last_passes.get(module)


def note(layer: "DynamicLayer", decision: Decision) -> int:
    """Adds a call of ``layer`` to the passes that it is part of; returns the number it has."""
    number = next(_numbers)
    for module in set(_being_called()) - {layer}:
        if _begin not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_begin)
            _last_passes[module] = Pass()
        found = _last_passes.setdefault(module, Pass())
        found.calls.append((ref(layer), decision))
        found.newest = number
    return number


def is_aside() -> bool:
    """Whether a call now is part of no pass: it is transformed, or computed once more."""
    return _observe.transformed() or _observe.recomputing()


def _begin(module: nn.Module, inputs: Any) -> None:
    del inputs
    if not torch.compiler.is_compiling():
        _begin_outside_of_graphs(module)


# between the graphs of a model compiled in parts the hook would become one that does nothing
skip_code(_begin.__code__)


@torch.compiler.disable
def _begin_outside_of_graphs(module: nn.Module) -> None:
    calls = sum(each is module for each in _being_called())
    if calls == 1 and not is_aside():  # with more it calls itself
        _last_passes[module] = Pass()


def _being_called() -> Iterator[nn.Module]:
    """Yields the modules whose calls are under way, the innermost first."""
    frame: FrameType | None = sys._getframe(1)  # torch keeps no list of them
    while frame is not None:
        if frame.f_code is _CALL:
            yield frame.f_locals["self"]
        frame = frame.f_back
