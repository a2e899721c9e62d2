"""What goes into layers and the gradients at what comes out, with the model left as it was."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neuro_morph._graph import evaluating
from neuro_morph._untouched import untouched

LossFn = Callable[[nn.Module, Any], Tensor]


@dataclass
class Tap:
    """One call of a layer.

    Attributes:
        x: its input.
        out: its output.
        x_grad: the gradient of the summed loss at its input, of this layer's part.
        out_grad: the gradient of the summed loss at its output.
    """

    x: Tensor
    out: Tensor
    x_grad: Tensor
    out_grad: Tensor


def batch_size(batch: Any) -> int:
    """Returns the number of examples in a batch: the length of its first tensor.

    Raises:
        ValueError: if it holds no tensor with a first axis.
    """
    sizes = [len(leaf) for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()]
    if not sizes or not sizes[0]:
        raise ValueError("every batch must hold a tensor of at least one example")
    return sizes[0]


def taps_of(
    model: nn.Module, paths: Iterable[str], batch: Any, loss_fn: LossFn
) -> tuple[dict[str, list[Tap]], float]:
    """Returns the calls of layers in one run with its gradients, and the mean loss.

    Gradients are those of the sum of the examples' losses: ``loss_fn`` gives them, or their mean.

    Raises:
        ValueError: if the loss is no finite number.
    """
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {path: [] for path in paths}
    with left_as_it_was(model), ExitStack() as stack, torch.enable_grad():
        for path, held in calls.items():
            _listen(model.get_submodule(path), held, stack)
        loss = mean_of(loss_fn(model, batch))
        wanted = [t for held in calls.values() for pair in held for t in pair]
        grads = _gradients(loss * batch_size(batch), wanted)
    return _paired(calls, grads), float(loss.detach())


def mean_of(losses: Any) -> Tensor:
    """Returns the mean of a batch's losses, which may be that of each example or their mean.

    Raises:
        ValueError: if they are no finite numbers.
    """
    if not isinstance(losses, Tensor) or not losses.numel():
        raise ValueError(f"loss_fn must give a tensor of losses or their mean, got {losses!r}")
    mean = losses.mean() if losses.dim() else losses
    value = float(mean.detach())
    if not isfinite(value):
        raise ValueError(f"loss_fn must give finite numbers, got a mean loss of {value}")
    return mean


@contextmanager
def left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Runs a model in evaluation mode; what the run moves is put back."""
    with untouched(model), evaluating(model):
        yield


def _listen(module: nn.Module, held: list[tuple[Tensor, Tensor]], stack: ExitStack) -> None:
    inputs: list[Tensor] = []

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = args[0].clone()
        inputs.append(x if x.requires_grad else x.requires_grad_())
        return (inputs[-1], *args[1:])

    def after(_: nn.Module, args: Any, out: Tensor) -> Tensor:
        held.append((inputs.pop(), out))
        return out.clone()  # what follows may work in place

    stack.callback(module.register_forward_pre_hook(before).remove)
    stack.callback(module.register_forward_hook(after).remove)


def _gradients(loss: Tensor, wanted: list[Tensor]) -> list[Tensor]:
    if not wanted:
        return []
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(wanted, found, strict=True)]


def _paired(
    calls: dict[str, list[tuple[Tensor, Tensor]]], grads: list[Tensor]
) -> dict[str, list[Tap]]:
    left = iter(grads)
    return {
        path: [Tap(x.detach(), out.detach(), next(left), next(left)) for x, out in held]
        for path, held in calls.items()
    }
