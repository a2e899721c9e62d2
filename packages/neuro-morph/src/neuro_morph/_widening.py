"""Widening a group of a model, with nothing yet checked."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice, product
from typing import Any

import torch
from torch import Tensor, nn

from neuro_morph._attributes import AttributeEdit, candidates, counts, sizes_of
from neuro_morph._edits import TensorEdit
from neuro_morph._graph import GrowthGraph
from neuro_morph._groups import GrowthGroup
from neuro_morph._masked_norm import mask_norms
from neuro_morph._plan_widen import Units, edits_of
from neuro_morph._sparse_masks import grow_masks
from neuro_morph._undo import UndoLog
from neuro_morph._valuing import CannotGrowError, Needs

_CHOICES = 16  # of attributes with one value in one module


def widen(
    model: nn.Module,
    graph: GrowthGraph,
    group: GrowthGroup,
    units: Units,
    way: str,
    log: UndoLog,
    generator: torch.Generator | None = None,
    rescaled: bool = False,
) -> list[TensorEdit]:
    """Gives every tensor of a group its new units; returns what was done to each tensor.

    With ``rescaled`` products with new units are made larger by the root of the growth: a model
    that divides them by the root of their number then gets what it did.

    Raises:
        CannotGrowError: if the group cannot be grown in this way.
    """
    needs = graph.needs(group, way)
    if rescaled:
        powers = {n: needs.powers.get(n, 0.0) - 0.5 for n in needs.scored}
        needs = replace(needs, powers={**needs.powers, **powers})
    edits = edits_of(group, needs, units)
    held = tensors_of(model)
    _weigh(edits, needs, held, group)
    mask_norms(model, needs, group.atom, units.size, log)
    for edit in edits:
        log.set_data(held[edit.name], edit.apply(held[edit.name], generator))
    edits += grow_masks(held, edits, units.late, log, generator)
    for path, name, value in counts(group, units.size, graph.numbers()):
        log.set_attribute(model.get_submodule(path), name, value)
    resize_modules(model, [edit.name for edit in edits], log)
    return edits


def _weigh(
    edits: list[TensorEdit], needs: Needs, held: dict[str, Tensor], group: GrowthGroup
) -> None:
    """Gives rows that have to be the mean of others once they are multiplied by a layer scale."""
    for edit in edits:
        factor = needs.rows.get(edit.name, "").partition("*")[2]
        if not factor:
            continue
        old, scale = held[edit.name].detach(), held[factor].detach()
        if len(edit.axes) != 1 or edit.axes[0].dim != 0 or scale.shape != old.shape[:1]:
            raise CannotGrowError(f"{factor!r} and {edit.name!r} do not stand unit by unit")
        edit.weighed_by = factor
        edit.axes[0].given = weighed_rows(old, scale, int((edit.axes[0].take < 0).sum()))


def weighed_rows(old: Tensor, scale: Tensor, count: int) -> Tensor:
    """Returns the mean of rows that are multiplied by ``scale``, as so many rows."""
    column = scale.double().reshape(-1, *[1] * (old.dim() - 1))
    mean = (old.double() * column).mean(0, keepdim=True)
    return mean.expand(count, *old.shape[1:])


def attempts(
    model: nn.Module, graph: GrowthGraph, group: GrowthGroup, size: int
) -> Iterator[list[AttributeEdit]]:
    """Yields sets of numbers of modules to try, the smallest first."""
    yield []
    tried: list[list[AttributeEdit]] = []
    for inner in (True, False):
        found = candidates(model, group, size, graph.numbers(), inner=inner)
        for choice in [found, *_one_of_each(found)]:
            if choice not in tried:
                yield choice
            tried.append(choice)


def _one_of_each(found: list[AttributeEdit]) -> Iterator[list[AttributeEdit]]:
    """Yields choices of one attribute where a module has several of one value."""
    alike: dict[tuple[str, Any], list[AttributeEdit]] = {}
    for edit in found:
        alike.setdefault((edit.path, edit.old), []).append(edit)
    if any(len(each) > 1 for each in alike.values()):
        yield from (list(choice) for choice in islice(product(*alike.values()), _CHOICES))


def resize_modules(model: nn.Module, names: Iterable[str], log: UndoLog) -> None:
    """Sets the numbers that modules of known classes hold to the sizes of their tensors."""
    for path in dict.fromkeys(name.rpartition(".")[0] for name in names):
        module = model.get_submodule(path)
        for name, value in sizes_of(module).items():
            if getattr(module, name) != value:
                log.set_attribute(module, name, value)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and buffers of a model by name, tied ones by every name."""
    named: Any = chain(
        model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)
    )
    return dict(named)
