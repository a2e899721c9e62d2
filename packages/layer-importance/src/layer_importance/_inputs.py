"""What modules that a method asked for are called with, and its gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._events import InputEvent
from layer_importance._now import Now, recomputing
from layer_importance._structure import stream


class Inputs:
    """Hears what goes into modules, once its gradient is there.

    Args:
        model: the model.
        now: the moment of the sweep.
    """

    def __init__(self, model: nn.Module, now: Now) -> None:
        self.model, self.now = model, now
        self._calls: dict[tuple[str, str], int] = {}

    def begin_batch(self) -> None:
        """Called before a batch goes through."""
        self._calls.clear()

    def watch(self, path: str, listener: str, tell: Callable[[InputEvent], None]) -> Any:
        """Puts a hook on the module at ``path`` and returns its handle."""

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            if self.now.quiet or recomputing():
                return
            call = self._calls[path, listener] = self._calls.get((path, listener), -1) + 1
            x = stream((args, kwargs))
            if x is not None and x.requires_grad:
                values = x.detach()
                x.register_hook(lambda grad: arrived(module, call, values, grad))

        @torch.no_grad()
        def arrived(module: nn.Module, call: int, values: Tensor, grad: Tensor | None) -> None:
            if self.now.quiet or grad is None:
                return
            event = InputEvent(
                path=path,
                module=module,
                call=call,
                x=values,
                grad=grad,
                samples=self.now.samples,
                phase=self.now.phase,
            )
            tell(event)

        module = self.model.get_submodule(path)
        return module.register_forward_pre_hook(before, with_kwargs=True)
