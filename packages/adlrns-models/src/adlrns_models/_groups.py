"""Factors of the groups of a convolution, and of any layer as a single group."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from adlrns_models._factorize import Factorization, factorize
from adlrns_models._plain import Plain, Sizes, group_columns, group_outputs, sizes_of, weight_matrix
from adlrns_models._two_sided import OutputSensitivity
from fd_sketch import CovarianceSketch

Sensitivity = Tensor | OutputSensitivity | None

if TYPE_CHECKING:
    from adlrns_models._layer import AdaptiveLayer

NAMES = ("down", "up", "inner_bias", "outer_bias")


def factorize_layer(
    layer: Plain,
    sketch: CovarianceSketch | None,
    *,
    sensitivity: Sensitivity = None,
    max_rank: int | None = None,
    device: torch.device | None = None,
) -> list[Factorization]:
    """Returns the factors of each group of a layer, ``down`` over the inputs of its group alone.

    Args:
        layer: the layer.
        sketch: of its inputs, of all groups together, or None.
        sensitivity: of its outputs, as :func:`factorize` takes it.
        max_rank: the number of directions kept.
        device: where to do so, default where the weight is.
    """
    sizes, matrix = sizes_of(layer), weight_matrix(layer).to(device)
    bias = None if layer.bias is None else layer.bias.detach().to(device)
    limit = sizes.max_rank if max_rank is None else min(max_rank, sizes.max_rank)
    if sizes.groups == 1:
        return [factorize(matrix, bias, sketch, sensitivity=sensitivity, max_rank=limit)]
    found = []
    for columns, rows in zip(group_columns(sizes), group_outputs(sizes), strict=True):
        factors = factorize(
            among_columns(matrix[rows], columns, sketch),
            None if bias is None else bias[rows],
            sketch,
            sensitivity=_block(sensitivity, rows),
            max_rank=limit,
        )
        found.append(factors if sketch is None else factors.of_columns(columns))
    return found


def among_columns(weight: Tensor, columns: slice | None, sketch: CovarianceSketch | None) -> Tensor:
    """Returns ``weight`` among zeros for the inputs that it does not read.

    A sketch of all inputs, and what it proves, then also serves a weight that reads some.
    """
    if columns is None or sketch is None:
        return weight
    wide = weight.new_zeros(weight.shape[0], sketch.n_features)
    wide[:, columns] = weight
    return wide


def _block(sensitivity: Sensitivity, rows: slice) -> Sensitivity:
    if sensitivity is None:
        return None
    if isinstance(sensitivity, OutputSensitivity):
        return OutputSensitivity(sensitivity.rows[:, rows], sensitivity.diagonal[rows])
    return sensitivity[rows] if sensitivity.ndim == 1 else sensitivity[rows, rows]


def stacked(found: list[Factorization]) -> Factorization:
    """Returns the factors of all groups in one, ``down [groups, R, n]``; their losses add up.

    Bounds are to be asked of each group: what they are made of is not kept.
    """
    if len(found) == 1:
        return found[0]

    def each(name: str, join: Callable[[list[Tensor]], Tensor]) -> Tensor:
        return join([getattr(factors, name) for factors in found])

    return Factorization(
        down=each("down", torch.stack),
        up=each("up", torch.stack),
        inner_bias=each("inner_bias", torch.stack),
        bias=each("bias", torch.cat),
        loss=each("loss", torch.stack).sum(0),
        lower=each("lower", torch.stack).sum(0),
        error_bound=max(factors.error_bound for factors in found),
        residual_mass=sum(factors.residual_mass for factors in found),
        rounding=max(factors.rounding for factors in found),
        gram=each("gram", torch.stack),
    )


class Part(NamedTuple):
    """The factors of one group of a layer, as views of its parameters.

    Attributes:
        down: ``[R, ...]``.
        up: ``[m, R]``.
        inner_bias: ``[R]``.
        outer_bias: ``[m]``.
        gradients: those that wait, by the names above.
        columns: which features of the layer's inputs it reads, None for all.
    """

    down: Tensor
    up: Tensor
    inner_bias: Tensor
    outer_bias: Tensor
    gradients: dict[str, Tensor | None]
    columns: slice | None = None


def parts(layer: "AdaptiveLayer") -> Iterator[Part]:
    """Yields the factors of each group of ``layer``."""
    sizes = Sizes(*layer.sizes, layer.groups)
    values = {name: getattr(layer, name).detach() for name in NAMES}
    gradients = {name: getattr(layer, name).grad for name in NAMES}
    if sizes.groups == 1:
        yield Part(**values, gradients=gradients)
        return
    for g, (columns, rows) in enumerate(
        zip(group_columns(sizes), group_outputs(sizes), strict=True)
    ):
        at = {name: rows if name == "outer_bias" else g for name in NAMES}
        mine = {name: None if d is None else d[at[name]] for name, d in gradients.items()}
        yield Part(**{n: v[at[n]] for n, v in values.items()}, gradients=mine, columns=columns)


def at_rank(part: Part, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns ``down [rank, n]``, ``up [m, rank]`` and ``inner_bias [rank]`` of a group."""
    return part.down[:rank].flatten(1), part.up[:, :rank], part.inner_bias[:rank]
