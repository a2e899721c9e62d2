"""Statistics of new channels of a BatchNorm: measured, not guessed."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from neuro_morph._edits import TensorEdit
from neuro_morph._graph import evaluating
from neuro_morph._inputs import ExampleInputs
from neuro_morph._untouched import untouched


def measure_new_channels(
    model: nn.Module, inputs: ExampleInputs, edits: Iterable[TensorEdit]
) -> None:
    """Gives new channels of every BatchNorm the mean and variance they have on example inputs.

    One run in evaluation mode, layer by layer: what comes after a BatchNorm sees the new channels
    normalised. Channels that do not vary keep a variance of 1. Nothing else has changed.
    """
    grown = [found for edit in edits if (found := _new_channels(model, edit)) is not None]
    if not grown:
        return
    measured: list[tuple[Tensor, Tensor, Tensor]] = []
    with ExitStack() as stack, untouched(model), evaluating(model), torch.no_grad():
        for module, fresh in grown:
            stack.callback(module.register_forward_pre_hook(_measurer(fresh, measured)).remove)
        model(*inputs.args, **inputs.kwargs)
    for held, where, numbers in measured:
        held.index_copy_(0, where, numbers)


def _new_channels(model: nn.Module, edit: TensorEdit) -> tuple[nn.Module, Tensor] | None:
    path, _, kind = edit.name.rpartition(".")
    fresh = (edit.axes[0].take < 0).nonzero().flatten()
    module = model.get_submodule(path)
    known = kind == "running_mean" and isinstance(module, nn.modules.batchnorm._NormBase)
    return (module, fresh) if known and len(fresh) else None


def _measurer(
    fresh: Tensor, measured: list[tuple[Tensor, Tensor, Tensor]]
) -> Callable[[Any, Any], None]:
    def measure(module: Any, args: Any) -> None:
        where = fresh.to(args[0].device)
        new = args[0].index_select(1, where).transpose(0, 1).flatten(1).double()
        mean, var = new.mean(1), new.var(1) if new.shape[1] > 1 else torch.zeros(len(new))
        steady = var <= 1e-12 * mean.square() + 1e-30
        for held, found in (
            (module.running_mean, mean),
            (module.running_var, torch.where(steady, 1.0, var)),
        ):
            measured.append((held, where, found.to(held)))
            held.index_copy_(0, where, found.to(held))

    return measure
