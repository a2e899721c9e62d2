"""A model that is run only to look at it: what the run moves is put back."""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_DEPTH = 3  # of lists in lists, beside which a module holds little that a run would move
_AUTOCAST = ("cpu", "cuda", "xpu", "mps")
_PLAIN = (bool, int, float, str, type)  # what a module holds most of
_NOT_HELD = frozenset(vars(nn.Module())) - {"training"}  # tables that hooks and tensors stand in


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Puts back what runs of a model move: random states, buffers, what its modules hold.

    Tensors, generators, lists, dictionaries, sets and arrays that modules hold keep their identity
    and get their old contents; parameters are not looked at.
    """
    states, held = RandomStates(), _Held(model.modules())
    try:
        yield
    finally:
        held.restore()
        states.restore()


@contextmanager
def in_modes(model: nn.Module, mode: Callable[[nn.Module], bool]) -> Iterator[None]:
    """Puts each module in training mode or not, and back into its own.

    No ``train()`` or ``eval()`` is called: a model's own may merge, freeze or cast its weights.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = mode(module)
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def without_autocast() -> Iterator[None]:
    """Runs a model in its own numbers, whatever is cast around it.

    What autocast keeps of parameters is dropped: a run would be given copies of them, and later
    ones copies of what they were.
    """
    kinds = [kind for kind in _AUTOCAST if torch.is_autocast_enabled(kind)]
    try:
        with ExitStack() as stack:
            for kind in kinds:
                stack.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        if kinds:
            torch.clear_autocast_cache()


class RandomStates:
    """The states of the generators that models draw from by default."""

    def __init__(self) -> None:
        self.torch = [torch.get_rng_state()]
        if torch.cuda.is_initialized():
            self.torch += torch.cuda.get_rng_state_all()
        self.numpy = np.random.get_state()  # noqa: NPY002 - what users draw from
        self.python = random.getstate()

    def restore(self) -> None:
        """Puts the generators back into these states."""
        torch.set_rng_state(self.torch[0])
        if len(self.torch) > 1:
            torch.cuda.set_rng_state_all(self.torch[1:])
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RandomStates) or len(self.torch) != len(other.torch):
            return False
        same = all(torch.equal(a, b) for a, b in zip(self.torch, other.torch, strict=True))
        mine, its = (
            [part.tolist() if isinstance(part, np.ndarray) else part for part in state]
            for state in (self.numpy, other.numpy)
        )
        return same and mine == its and self.python == other.python

    __hash__ = None  # type: ignore[assignment]


class _Held:
    """What modules hold beside their parameters."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._modules = [(m, dict(vars(m)), dict(m._buffers)) for m in modules]
        self._parts: dict[int, tuple[Any, Any]] = {}
        for _, held, buffers in self._modules:
            for name, value in held.items():
                if name not in _NOT_HELD:
                    self._keep(value, _DEPTH)
            for value in buffers.values():
                self._keep(value, 0)

    def restore(self) -> None:
        for module, held, buffers in self._modules:
            for table, kept in ((vars(module), held), (module._buffers, buffers)):
                if table.keys() != kept.keys() or any(table[k] is not v for k, v in kept.items()):
                    table.clear()
                    table.update(kept)
        for value, kept in self._parts.values():
            _put_back(value, kept)

    def _keep(self, value: Any, depth: int) -> None:
        if value is None or isinstance(value, _PLAIN) or id(value) in self._parts:
            return
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self._parts[id(value)] = value, value.detach().clone()
        elif isinstance(value, torch.Generator):
            self._parts[id(value)] = value, value.get_state()
        elif isinstance(value, list | dict | set | np.ndarray):
            self._parts[id(value)] = value, value.copy()
        inside = value.values() if isinstance(value, dict) else value
        if depth and isinstance(value, list | tuple | dict):
            for each in inside:
                self._keep(each, depth - 1)


def _put_back(value: Any, kept: Any) -> None:
    if isinstance(value, Tensor):
        _put_numbers_back(value, kept)
    elif isinstance(value, torch.Generator):
        value.set_state(kept)
    elif isinstance(value, np.ndarray):
        value[...] = kept
    elif isinstance(value, list):
        value[:] = kept
    else:
        value.clear()
        value.update(kept)


def _put_numbers_back(tensor: Tensor, kept: Tensor) -> None:
    """Gives a tensor its old numbers; one that has them is left alone: a graph may need it."""
    if tensor.is_meta:
        return
    if tensor.shape != kept.shape:
        tensor.data = kept
    elif tensor.layout != torch.strided or tensor.is_quantized or not torch.equal(tensor, kept):
        with torch.no_grad():
            tensor.copy_(kept)
