"""Averages of a model over its training, grown with it."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from neuro_morph._edit import Performed
from neuro_morph._edits import TensorEdit
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._spec import ArchitectureSpec, Step
from neuro_morph._undo import UndoLog
from neuro_morph._widening import tensors_of, weighed_rows


def averaged_model(average: nn.Module) -> nn.Module:
    """Returns the copy of the model that an average is, or that its wrapper holds."""
    inner = getattr(average, "module", None)
    return inner if isinstance(inner, nn.Module) else average


def check_averages(averages: Iterable[nn.Module], model: nn.Module) -> None:
    """Raises GrowthRefusedError if an average has other tensors than the model."""
    wanted = {name: tensor.shape for name, tensor in tensors_of(model).items()}
    for average in averages:
        held = {name: tensor.shape for name, tensor in tensors_of(averaged_model(average)).items()}
        other = next((name for name in wanted | held if wanted.get(name) != held.get(name)), None)
        if other is not None:
            raise GrowthRefusedError(
                f"{type(average).__name__} is no average of the model: {other!r} is "
                f"{_shown(held.get(other))} there and {_shown(wanted.get(other))} in the model"
            )


def _shown(shape: torch.Size | None) -> str:
    return "missing" if shape is None else str(tuple(shape))


def grow_average(
    average: nn.Module, model: nn.Module, step: Step, performed: Performed, log: UndoLog
) -> None:
    """Does to an average what was done to the model: it computes what it did, too.

    Old entries are those of the average, grown as the model's were; new ones begin as they do in
    the model, means of others as means of the average's own.

    Args:
        average: the average, or a wrapper of it.
        model: the model, grown.
        step: the edit in a spec.
        performed: the edit as it was done.
        log: where contents are written as they were.
    """
    inner = averaged_model(average)
    old = {name: tensor.detach() for name, tensor in tensors_of(inner).items()}
    ArchitectureSpec([replace(step, tensors=[])]).replay_into(inner, log)
    held, grown = tensors_of(inner), tensors_of(model)
    before = {name: old[name] for name in old if name in held}
    for edit in performed.tensors:
        log.set_data(held[edit.name], _averaged(edit, before, grown[edit.name].detach()))
    known = {edit.name for edit in performed.tensors} | old.keys()
    with torch.no_grad():
        for name in held.keys() - known:  # of modules that the edit has added
            held[name].copy_(grown[name])


def _averaged(edit: TensorEdit, before: dict[str, Tensor], grown: Tensor) -> Tensor:
    old = before[edit.name]
    if edit.weighed_by is not None:
        count = int((edit.axes[0].take < 0).sum())
        given = weighed_rows(old, before[edit.weighed_by], count)
        edit = replace(edit, axes=[replace(edit.axes[0], given=given)])
    new = edit.apply(old, torch.Generator())  # what is drawn is overwritten below
    own = edit.weighed_by is not None or any(axis.fill == "mean" for axis in edit.axes)
    return new if own else torch.where(edit.fresh(new), grown.to(new), new)
