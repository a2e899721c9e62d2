"""The two usual ways to spread a budget, to compare with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rank_sched._errors import BudgetError
from rank_sched._layers import Floats, Ints, Layer, Tables, read_layers
from rank_sched._numbers import number
from rank_sched._point import OperatingPoint


@dataclass(frozen=True, eq=False)
class _Path:
    """The choices a layer goes through as the common fraction rises, and where it moves on."""

    name: str
    costs: Floats  # [K]
    losses: Floats  # [K]
    ranks: Ints  # [K]
    turns: Floats  # [K - 1], rising


def uniform(
    loss_curves: Tables, costs: Tables, budget: float, *, ranks: Tables | None = None
) -> OperatingPoint:
    """Return the best point that takes the same fraction of each layer's range of ranks.

    At fraction t a layer has the largest of its ranks up to r_min + t·(r_max - r_min). Of all
    fractions whose cost is within the budget the one of least loss wins; of two choices with the
    same rank the one of less loss counts, then the cheaper one.

    Args:
        loss_curves: Loss of each layer at each choice, `[K_l]`.
        costs: Cost of each layer at each choice, `[K_l]`.
        budget: Upper limit of the summed cost.
        ranks: The rank that each choice stands for, `[K_l]`; by default 0, 1, 2, ...

    Raises:
        BudgetError: No fraction fits; the message says what the cheapest one costs.
        ValueError, TypeError: As `frontier`; or several costs by name, of which it takes one.

    >>> uniform({"a": [4, 1, 0], "b": [9, 6, 0]}, {"a": [0, 1, 2], "b": [0, 5, 10]}, budget=7)
    OperatingPoint(ranks={'a': 1, 'b': 1}, loss=7.0, cost=6.0)
    """
    return _best_fraction(_read("uniform", loss_curves, costs, ranks), _by_rank, budget)


def energy_fraction(
    loss_curves: Tables, costs: Tables, budget: float, *, ranks: Tables | None = None
) -> OperatingPoint:
    """Return the best point that retains the same fraction of each layer's energy.

    With fraction q retained, a layer has the smallest rank whose loss is at most 1 - q of the loss
    at its smallest rank: the usual threshold on singular values. Arguments and errors are those of
    `uniform`; in addition losses must not be negative.

    >>> curves = {"a": [4, 1, 0], "b": [9, 6, 0]}
    >>> energy_fraction(curves, {"a": [0, 1, 2], "b": [0, 5, 10]}, budget=7)
    OperatingPoint(ranks={'a': 1, 'b': 1}, loss=7.0, cost=6.0)
    """
    layers = _read("energy_fraction", loss_curves, costs, ranks)
    for layer in layers:
        if layer.losses.min() < 0:
            raise ValueError(
                f"loss_curves[{layer.name!r}] must not be negative to retain a fraction of it, "
                f"got {layer.losses.min()}"
            )
    return _best_fraction(layers, _by_energy, budget)


def _read(by: str, loss_curves: Tables, costs: Tables, ranks: Tables | None) -> list[Layer]:
    if isinstance(costs, Mapping) and any(isinstance(table, Mapping) for table in costs.values()):
        names = ", ".join(map(str, costs))
        raise TypeError(f"costs must be of one kind for {by}, got several: {names}")
    return read_layers(loss_curves, costs, ranks)


def _by_rank(layer: Layer) -> _Path:
    order = np.lexsort((layer.costs, layer.losses, layer.ranks))
    order = order[np.append(True, np.diff(layer.ranks[order]) > 0)]
    above = layer.ranks[order] - layer.ranks[order[0]]
    return _path(layer, order, turns=above[1:] / max(above[-1], 1))


def _by_energy(layer: Layer) -> _Path:
    order = np.lexsort((layer.costs, layer.losses, layer.ranks))
    ahead = np.minimum.accumulate(layer.losses[order])[:-1]
    order = order[np.append(True, layer.losses[order[1:]] < ahead)]
    losses = layer.losses[order]
    # the next choice is due once more is asked for than this one retains
    return _path(layer, order, turns=1 - losses[:-1] / (losses[0] or 1))


def _path(layer: Layer, order: Ints, *, turns: Floats) -> _Path:
    return _Path(layer.name, layer.costs[order], layer.losses[order], layer.ranks[order], turns)


def _best_fraction(
    layers: list[Layer], make: Callable[[Layer], _Path], budget: float
) -> OperatingPoint:
    budget, paths = number("budget", budget), [make(layer) for layer in layers]
    turns = np.concatenate([path.turns for path in paths])
    owner = np.repeat(np.arange(len(paths)), [len(path.turns) for path in paths])
    order = np.argsort(turns, kind="stable")
    costs = _running([path.costs for path in paths], order)
    losses = _running([path.losses for path in paths], order)
    # layers that turn at the same fraction turn together
    whole = np.append(np.append(True, np.diff(turns[order]) > 0), True)[-len(costs) :]
    fits = np.flatnonzero(whole & (costs <= budget))
    if not fits.size:
        raise BudgetError(
            f"budget must be at least {float(costs[whole].min())!r}, the smallest cost of one "
            f"fraction for all layers, got {budget!r}"
        )
    best = fits[np.lexsort((costs[fits], losses[fits]))[0]]
    taken = np.bincount(owner[order[:best]], minlength=len(paths))
    ranks = {path.name: int(path.ranks[k]) for path, k in zip(paths, taken, strict=True)}
    return OperatingPoint(ranks, float(losses[best]), float(costs[best]))


def _running(values: list[Floats], order: Ints) -> Floats:
    first = np.sum([v[0] for v in values], dtype=np.longdouble)
    moves = np.concatenate([np.diff(v.astype(np.longdouble)) for v in values])[order]
    return np.cumsum(np.append(first, moves)).astype(np.float64)
