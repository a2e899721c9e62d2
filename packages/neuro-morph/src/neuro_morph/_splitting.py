"""Whether a unit gains by being split in two, and along which direction."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from neuro_morph._arguments import check_kind
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._groups import GrowthGroup
from neuro_morph._layer_rows import features_of
from neuro_morph._patches import output_rows
from neuro_morph._tapping import LossFn, batch_size, left_as_it_was
from neuro_morph._unit_layers import NoLayerError, UnitLayer, makers_of, readers_of
from neuro_morph._wrappers import unwrap

_MOST = 50_000_000  # numbers in all matrices of a group


@dataclass(frozen=True)
class Splitting:
    """The splitting matrices of a group's units.

    Attributes:
        group: the group.
        matrices: ``S_u = E[dL/dh_u h_u'' x x']``, ``[C, X, X]``, sums over positions inside; the
            last row and column are the bias's if there is one.
        values: their eigenvalues, ``[C, X]``, the smallest first.
        directions: their eigenvectors, ``[C, X, X]``, in columns.
    """

    group: str
    matrices: Tensor
    values: Tensor
    directions: Tensor

    def gains(self, *, signed: bool = False) -> Tensor:
        """Returns what splitting each unit gains for a step of one, ``[C]``.

        Halves that step apart by ``v`` change the loss by ``v' S v / 2``: a unit gains
        ``-lambda_min / 2`` where that is above zero. ``signed``, a copy may count negatively: it
        gains ``lambda_max / 4`` with weights 2 and -1 where that is more.
        """
        halves = (-self.values[:, 0] / 2).clamp(min=0)
        if not signed:
            return halves
        return torch.maximum(halves, (self.values[:, -1] / 4).clamp(min=0))


def splitting_of(
    model: nn.Module, group: GrowthGroup, batches: Iterable[Any], loss_fn: LossFn
) -> Splitting:
    """Returns the splitting matrices of a group, from one pass; the model is left as it was.

    What stands between the maker and the readers has to treat each number by itself, or linearly
    (a BatchNorm in evaluation, an average); where it has no second derivative, as ReLU, the
    matrices are zero and nothing gains.

    Raises:
        GrowthRefusedError: if the units are not made by one plain layer, or the matrices are too
            large.
        ValueError: if there are no batches.

    Source: Wu, Wang, Liu, splitting steepest descent (NeurIPS 2019), equation 4.
    """
    model = unwrap(model)
    check_kind(GrowthGroup, group=group)
    try:
        makers, readers = makers_of(model, group), readers_of(model, group)
    except NoLayerError as why:
        raise GrowthRefusedError(f"{group.id!r} has no splitting matrix: {why}") from None
    if len(makers) != 1:
        raise GrowthRefusedError(
            f"{group.id!r} has no splitting matrix: its units are made by {len(makers)} layers"
        )
    maker, rows = makers[0], makers[0].places.shape[1]
    if rows != 1:
        raise GrowthRefusedError(
            f"{group.id!r} has no splitting matrix: each of its units is {rows} rows of "
            f"{maker.weight!r}"
        )
    width = maker.module.weight[0].numel() + (maker.bias is not None)  # type: ignore[index]
    if group.size * width**2 > _MOST:
        raise GrowthRefusedError(
            f"the splitting matrices of {group.id!r} hold over {_MOST} numbers"
        )
    total: Tensor | None = None
    examples = 0
    for batch in batches:
        term = _matrices(model, maker, readers, batch, loss_fn)
        total = term if total is None else total + term
        examples += batch_size(batch)
    if total is None:
        raise ValueError("batches must hold at least one batch")
    values, directions = torch.linalg.eigh(total / examples)
    return Splitting(group.id, total / examples, values, directions)


def _matrices(
    model: nn.Module, maker: UnitLayer, readers: list[UnitLayer], batch: Any, loss_fn: LossFn
) -> Tensor:
    x, bend = _curvature(model, maker, readers, batch, loss_fn)
    rows = features_of(maker, x.double())
    c = output_rows(maker.module, bend)[..., maker.places[:, 0]].double()
    return torch.einsum("npc,npf,npe->cfe", c, rows, rows)


def _curvature(
    model: nn.Module, maker: UnitLayer, readers: list[UnitLayer], batch: Any, loss_fn: LossFn
) -> tuple[Tensor, Tensor]:
    """Returns the maker's input, and ``dL/dh h''`` at each number of its output."""
    made: list[Tensor] = []
    given: list[Tensor] = []
    reads: list[tuple[Tensor, Tensor]] = []

    def after(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        given.append(args[0].detach())
        made.append(out.detach().requires_grad_())
        return made[-1].clone()

    def before(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        inner = args[0].detach().clone().requires_grad_()
        reads.append((args[0].clone(), inner))
        return (inner, *args[1:])

    with left_as_it_was(model), ExitStack() as stack, torch.enable_grad():
        stack.callback(maker.module.register_forward_hook(after).remove)
        for reader in readers:
            stack.callback(reader.module.register_forward_pre_hook(before).remove)
        loss = loss_fn(model, batch) * batch_size(batch)
        slopes = torch.autograd.grad(loss, [inner for _, inner in reads])
        if len(made) != 1:
            raise GrowthRefusedError(f"{maker.path!r} was called {len(made)} times in one run")
        first = torch.autograd.grad(
            [outer for outer, _ in reads], made[0], list(slopes), create_graph=True
        )[0]
        if not first.requires_grad:
            return given[0], torch.zeros_like(first)
        bend = torch.autograd.grad(first.sum(), made[0], allow_unused=True)[0]
    return given[0], torch.zeros_like(first) if bend is None else bend
