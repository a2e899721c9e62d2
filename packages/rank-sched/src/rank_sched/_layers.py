"""Reading and checking the tables every allocation starts from."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Tables = Mapping[str, ArrayLike]


@dataclass(frozen=True, eq=False)
class Layer:
    """The choices of one layer: what each costs and loses, and the rank it stands for.

    Tied layers are one such layer, with the sums of their costs and losses.
    """

    name: str
    costs: Floats  # [K]
    losses: Floats  # [K]
    ranks: Ints  # [K]
    members: tuple[str, ...] = ()  # tied layers; none means the layer itself


def read_layers(loss_curves: Tables, costs: Tables, ranks: Tables | None) -> list[Layer]:
    """Return the layers in the order of `loss_curves`, everything checked.

    Raises:
        ValueError: A table is empty, misses a layer, has another length or a value that is not
            finite (or, for costs, negative); the message names table and layer.
        TypeError: A table is not a mapping, or does not hold real numbers (whole, for ranks).
    """
    _check_names(loss_curves, costs=costs, ranks=ranks)
    layers = [
        Layer(
            name=name,
            losses=(losses := _numbers("loss_curves", name, curve)),
            costs=_costs(name, costs[name], size=len(losses)),
            ranks=_ranks(name, ranks, size=len(losses)),
        )
        for name, curve in loss_curves.items()
    ]
    _check_sum("loss_curves", [np.abs(layer.losses).max() for layer in layers])
    _check_sum("costs", [layer.costs.max() for layer in layers])
    return layers


def _check_names(loss_curves: Tables, **others: Tables | None) -> None:
    tables = {"loss_curves": loss_curves} | {k: v for k, v in others.items() if v is not None}
    for argument, table in tables.items():
        if not isinstance(table, Mapping):
            raise TypeError(f"{argument} must map names to arrays, got {type(table).__name__}")
        if odd := sorted(map(repr, loss_curves.keys() ^ table.keys())):
            raise ValueError(f"{argument} must name the layers of loss_curves, differs in {odd[0]}")
    if not loss_curves:
        raise ValueError("loss_curves must name at least one layer, got none")


def _numbers(argument: str, name: str, values: ArrayLike) -> Floats:
    array = np.asarray(values)
    if array.dtype.kind not in "iufb":
        raise TypeError(f"{argument}[{name!r}] must hold real numbers, got {array.dtype}")
    if array.ndim != 1 or not array.size:
        raise ValueError(
            f"{argument}[{name!r}] must be one-dimensional with at least one choice, "
            f"got shape {array.shape}"
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        worst = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(
            f"{argument}[{name!r}] must be finite, got {array[worst]} at choice {worst}"
        )
    return array


def _costs(name: str, values: ArrayLike, *, size: int) -> Floats:
    costs = _numbers("costs", name, values)
    _check_size("costs", name, costs, size=size)
    if costs.min() < 0:
        raise ValueError(f"costs[{name!r}] must not be negative, got {costs.min()}")
    return costs


def _ranks(name: str, table: Tables | None, *, size: int) -> Ints:
    if table is None:
        return np.arange(size, dtype=np.int64)
    ranks = np.asarray(table[name])
    if ranks.dtype.kind not in "iu":
        raise TypeError(f"ranks[{name!r}] must hold whole numbers, got {ranks.dtype}")
    _check_size("ranks", name, ranks, size=size)
    if ranks.min() < 0:
        raise ValueError(f"ranks[{name!r}] must not be negative, got {ranks.min()}")
    return ranks.astype(np.int64)


def _check_size(argument: str, name: str, values: NDArray[np.generic], *, size: int) -> None:
    if values.shape != (size,):
        raise ValueError(
            f"{argument}[{name!r}] must have one value for each of the {size} choices of "
            f"loss_curves[{name!r}], got shape {values.shape}"
        )


def _check_sum(argument: str, largest: list[np.float64]) -> None:
    # a total beyond the largest float would order all budgets alike
    if not np.isfinite(sum(float(value) for value in largest)):
        raise ValueError(f"{argument} must add up to a finite number, their sum overflows")
