"""Parameters and buffers that a run never reached: experts without a token, heads that train."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from neuro_morph._axes import size_of
from neuro_morph._groups import GrowthGroup
from neuro_morph._program import Program
from neuro_morph._sparse_masks import MASK

Shape = tuple[int, ...]


def idle_in(program: Program, model: nn.Module, unused: Iterable[str] = ()) -> dict[str, Shape]:
    """Returns the shapes of the parameters and buffers that no operation was given, by name.

    Of buffers those count that hold numbers: not indices, what norms keep and masks of sparse
    layers, nor tables that stand in their module twice.

    Args:
        program: a run.
        model: what was run.
        unused: parameters, buffers, or modules with all of theirs, that are left out: the model
            never reaches them.

    Raises:
        ValueError: if one of ``unused`` is no parameter or buffer, nor a module that has any.
    """
    reached = {ref.index for call in program.calls for ref in call.inputs()}
    reached |= {ref.index for _, ref in program.outputs}
    tensors = {**program.parameters, **program.buffers}
    names = {name: index for index, name in tensors.items()}
    used = {name for index, name in tensors.items() if index in reached}
    kept = set(program.buffers.values()) & names.keys() - used
    used |= {name for name in kept if not _counts(model, name, used)}
    left: set[str] = set()
    for wanted in unused:
        mine = {name for name in names if name == wanted or name.startswith(f"{wanted}.")}
        if not mine:
            raise ValueError(
                f"unused must name parameters, buffers or modules with some, got {wanted!r}"
            )
        left |= mine
    return {name: program.shapes[names[name]] for name in names.keys() - used - left}


def _counts(model: nn.Module, name: str, used: set[str]) -> bool:
    """Whether a buffer that was not used may have an axis of units."""
    path, _, own = name.rpartition(".")
    holder = model.get_submodule(path)
    table = holder._buffers[own]
    if table is None or not table.is_floating_point() or isinstance(holder, _NormBase):
        return False
    others = [b for n, b in holder.named_buffers(path, recurse=False) if n in used]
    return not own.endswith(MASK) and not any(
        b.shape == table.shape and torch.equal(b, table.to(b)) for b in others
    )


def reason_of(group: GrowthGroup, idle: dict[str, Shape]) -> str | None:
    """Returns why a group must not grow while some parameters are not known, None if it may."""
    sizes = {group.size, *(size_of(member.axis) for member in group.members)}
    for name, shape in sorted(idle.items()):
        kernel = len(shape) > 2 and name.rpartition(".")[2] == "weight"
        found = sizes & set(shape[:2] if kernel else shape)
        if found:
            return (
                f"{name!r} was not used on the example inputs and has an axis of {min(found)} that "
                "may have to grow with it: give inputs that reach it, or name it in unused=(...)"
            )
    return None
