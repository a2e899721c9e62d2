"""What a run shows by itself: the inputs of its model, its optimizers and their steps."""

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.hooks import RemovableHandle

from neuro_morph._inputs import ExampleInputs

_ROWS = 4  # of the inputs that are kept


class InputTap:
    """Keeps a small copy of what a model was called with last.

    Where all tensors have as many rows as one another, the first few of them; else all.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self.latest: ExampleInputs | None = None
        self.resting = model is None
        self._handle: RemovableHandle | None = None
        if model is not None:
            self._handle = model.register_forward_pre_hook(self, with_kwargs=True)

    @torch.compiler.disable
    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Listens to a call."""
        if not self.resting:
            kept = tree_map(_cutter(tree_leaves((args, kwargs))), (args, kwargs))
            self.latest = ExampleInputs(tuple(kept[0]), dict(kept[1]))

    def __deepcopy__(self, memo: Any) -> "InputTap":
        return InputTap()  # a copy of a model is nobody's run

    def __reduce__(self) -> Any:
        return InputTap, ()

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Does not listen while the model is looked at."""
        before, self.resting = self.resting, True
        try:
            yield
        finally:
            self.resting = before

    def close(self) -> None:
        """Takes it off the model."""
        self.resting = True
        if self._handle is not None:
            self._handle.remove()


def _cutter(leaves: list[Any]) -> Any:
    sizes = {x.shape[0] if x.dim() else 0 for x in leaves if isinstance(x, Tensor)}
    rows = _ROWS if len(sizes) == 1 else None

    def cut(value: Any) -> Any:
        return value[:rows].detach().clone() if isinstance(value, Tensor) else value

    return cut


class OptimizerWatch:
    """Finds the optimizers that hold a model's parameters when they make a step.

    Args:
        model: the model.
        given: optimizers that are known; with some, no others are looked for.

    Attributes:
        steps: the steps that have been made, those of the optimizer that has made the most.
    """

    def __init__(self, model: nn.Module, given: Iterable[Optimizer] = ()) -> None:
        self._model = weakref.ref(model)
        known = list(given)
        self._own = list(known)  # what is given is held on to, what is found is not
        self._look = not known
        self._found: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._found.update(dict.fromkeys(known, 0))
        self._used: dict[Tensor, tuple[weakref.ref[Tensor], int]] = {}
        self._handles = _listen(self)

    @property
    def optimizers(self) -> list[Optimizer]:
        """The optimizers of the model, in the order they were found."""
        return list(self._found)

    @property
    def steps(self) -> int:
        """The steps of the optimizer that has made the most."""
        return max(self._found.values(), default=0)

    def before_step(self, optimizer: Optimizer) -> None:
        """Takes an optimizer in if it holds a parameter of the model."""
        model = self._model()
        if not self._look or model is None or optimizer in self._found:
            return
        mine = {id(p) for p in model.parameters()}
        if any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
            self._found[optimizer] = 0

    def after_step(self, optimizer: Optimizer) -> None:
        """Counts a step, and notes which gradients it has used."""
        if optimizer not in self._found:
            return
        self._found[optimizer] += 1
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._used[p] = weakref.ref(p.grad), p.grad._version

    def take_used_gradients(self) -> list[tuple[nn.Parameter, Tensor]]:
        """Takes gradients away that a step has used and nothing has changed since."""
        taken = []
        model = self._model()
        for p in model.parameters() if model is not None else ():
            seen, version = self._used.get(p, (None, 0))
            grad = p.grad
            known = grad is not None and seen is not None and seen() is grad
            if grad is not None and known and grad._version == version:
                taken.append((p, grad))
                p.grad = None
        return taken

    def close(self) -> None:
        """Stops listening."""
        _remove(self._handles)


def _listen(watch: OptimizerWatch) -> list[RemovableHandle]:
    """Lets a watch hear of every step of every optimizer, for as long as it is there."""
    this = weakref.ref(watch)

    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if (held := this()) is not None:
            held.before_step(optimizer)

    def after(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if (held := this()) is not None:
            held.after_step(optimizer)

    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    weakref.finalize(watch, _remove, handles)
    return handles


def _remove(handles: list[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()
