"""Which gradients optimizers have used, so that none is taken for used that waits for a step."""

import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

_ASKED = 8  # times in a row that gradients wait, before that is told


class StepWatch:
    """Watches optimizers for steps.

    A gradient is used if it is the very tensor, as it was, that an optimizer holding its parameter
    has seen at its last step; one that has been added to since is not.

    Args:
        optimizers: what is watched.
        norms: whether the norm of the gradients of each step is kept.
    """

    def __init__(self, optimizers: Sequence[Optimizer], *, norms: bool = False) -> None:
        self.optimizers, self.paused = optimizers, False
        self.norms: list[float] | None = [] if norms else None
        self._seen: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._waited: int | None = 0  # times in a row; None once they did not, or it was told
        self._handles = [o.register_step_post_hook(self._after) for o in optimizers]

    def ready(self, model: nn.Module) -> bool:
        """Whether no gradient of a model waits for a step of one of the optimizers.

        Warns once if one did whenever this was asked: then nothing will ever grow.
        """
        held = {id(p) for optimizer in self.optimizers for p in _parameters(optimizer)}
        waits = any(id(p) in held and self._waits(p) for p in model.parameters())
        if self._waited is not None:
            self._waited = self._waited + 1 if waits else None
        if self._waited == _ASKED:
            self._waited = None
            warnings.warn(
                f"gradients waited for the optimizer's step each of the {_ASKED} times that growth "
                "was thought of, and so nothing grew: call step() of the policy after that of the "
                "optimizer",
                RuntimeWarning,
                stacklevel=2,
            )
        return not waits

    def close(self) -> None:
        """Stops watching."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _waits(self, parameter: Tensor) -> bool:
        gradient = parameter.grad
        if gradient is None:
            return False
        seen, version = self._seen.get(id(parameter), (lambda: None, 0))
        if seen() is gradient and gradient._version == version:
            return False
        return bool(_dense(gradient).any())  # zero_grad(set_to_none=False) leaves zeros

    def _after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.paused:
            return
        for parameter in _parameters(optimizer):
            if parameter.grad is not None:
                gradient = parameter.grad
                self._seen[id(parameter)] = weakref.ref(gradient), gradient._version
        if self.norms is not None:
            self.norms.append(_norm(optimizer))


def clear_gradients(model: nn.Module) -> None:
    """Drops the gradients of a model."""
    for parameter in model.parameters():
        parameter.grad = None


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    return (p for group in optimizer.param_groups for p in group["params"])


def _norm(optimizer: Optimizer) -> float:
    found = [p.grad for p in _parameters(optimizer) if p.grad is not None]
    norms = [torch.linalg.vector_norm(_dense(gradient)) for gradient in found]
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.0


def _dense(gradient: Tensor) -> Tensor:
    return gradient.detach().coalesce().values() if gradient.is_sparse else gradient.detach()
