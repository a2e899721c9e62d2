"""Masks of sparse weights: they grow with the weights they belong to."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from neuro_morph._edits import TensorEdit
from neuro_morph._sparse_layers import largest
from neuro_morph._undo import UndoLog

MASK = "weight_mask"


def masks_in(held: Mapping[str, Tensor]) -> dict[str, str]:
    """Returns the weight of each tensor that is a mask of :class:`SparseGrowth`, by name."""
    return {
        name: weight
        for name, weight in _named(held).items()
        if held[name].shape == held[weight].shape
    }


def _named(held: Mapping[str, Tensor]) -> dict[str, str]:
    """Returns the weight of each tensor that has the name of a mask."""
    ends = {name: name.removesuffix("_mask") for name in held if name.rpartition(".")[2] == MASK}
    return {n: w for n, w in ends.items() if w in held and held[n].dtype == torch.bool}


def grow_masks(
    held: Mapping[str, Tensor],
    edits: Sequence[TensorEdit],
    late: Collection[str],
    log: UndoLog,
    generator: torch.Generator | None = None,
) -> list[TensorEdit]:
    """Grows the masks of weights that have grown; returns how.

    Copies of connections are there as what they are copies of. Of those that are new as many are
    there as of the others, drawn at random; but all that have to be what they are so that the
    network computes what it did. New weights that are not there become zero.

    Args:
        held: the tensors of the model, weights grown.
        edits: how they grew.
        late: weights with entries that come in later.
        log: where everything is written as it was.
        generator: the source of random numbers.
    """
    by_tensor = {id(held[edit.name]): edit for edit in edits}
    found = []
    for name, weight in _named(held).items():
        edit = by_tensor.get(id(held[weight]))
        if edit is None or held[name].shape != log.data_before(held[weight]).shape:
            continue
        axes = [
            replace(a, values=torch.ones(len(a.take)), fill="zero", given=None) for a in edit.axes
        ]
        grown = TensorEdit(name, axes)
        fresh = grown.fresh(held[weight])
        needed = fresh & (held[weight] != 0) & _bound(edit) | fresh & (edit.name in late)
        new = _drawn(held[name], grown, fresh, needed, generator)
        log.set_data(held[name], new)
        held[weight].data.mul_(new)
        found.append(grown)
    return found


def _bound(edit: TensorEdit) -> bool:
    """Whether new entries of a weight are given or means of others."""
    return any(axis.given is not None or axis.fill in ("mean", "one") for axis in edit.axes)


def _drawn(
    old: Tensor,
    edit: TensorEdit,
    fresh: Tensor,
    needed: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Returns a grown mask, with new entries at the density of the old ones."""
    density = float(old.float().mean())
    count = max(round(density * int(fresh.sum())), int(needed.sum()))
    score = torch.rand(fresh.shape, generator=generator).to(fresh.device)
    score = score.masked_fill(needed, 2.0).masked_fill(~fresh, -1.0)
    return edit.apply(old) | largest(score, count)
