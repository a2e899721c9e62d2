"""The exact answer under several budgets, slowly."""

from collections.abc import Mapping

import numpy as np

from rank_sched._errors import BudgetError
from rank_sched._grid import build_grid
from rank_sched._layers import Floats, Ints, Tables, read_layers
from rank_sched._point import MultiPoint


def multi_dynamic_program(
    loss_curves: Tables,
    costs: Mapping[str, Tables],
    budgets: Mapping[str, float],
    *,
    ranks: Tables | None = None,
) -> MultiPoint:
    """Return the best point within all budgets, exact for tables of any shape.

    Like `dynamic_program`, with a vector of costs: a partial sum is dropped if another one is at
    least as good in the loss and in every cost. Sums grow much faster than with one cost, so this
    is for a handful of layers.

    Raises:
        BudgetError: Nothing fits.

    >>> costs = {"s": {"a": [0, 2], "b": [0, 1]}, "bytes": {"a": [0, 1], "b": [0, 9]}}
    >>> curves = {"a": [3, 1], "b": [5, 0]}
    >>> multi_dynamic_program(curves, costs, {"s": 9, "bytes": 8}).ranks
    {'a': 1, 'b': 0}
    """
    grid = build_grid([read_layers(loss_curves, table, ranks) for table in costs.values()])
    limits = np.array([budgets.get(name, np.inf) for name in costs])
    to_come = grid.lowest.sum(axis=1)
    values, table = np.zeros((1, 1 + len(costs))), np.zeros((1, 0), dtype=np.int64)
    for layer in range(len(grid.losses)):
        own = np.flatnonzero(grid.ranks[layer] >= 0)
        added = np.column_stack([grid.losses[layer, own], grid.costs[:, layer, own].T])
        values = (values[:, None] + added).reshape(-1, 1 + len(costs))
        table = np.column_stack([table.repeat(len(own), axis=0), np.tile(own, len(table))])
        to_come = to_come - grid.lowest[:, layer]
        kept = np.flatnonzero((values[:, 1:] + to_come <= limits * (1 + 1e-12)).all(axis=1))
        kept = kept[_undominated(values[kept])]
        values, table = values[kept], table[kept]
    fits = np.flatnonzero((values[:, 1:] <= limits).all(axis=1))
    if not fits.size:
        raise BudgetError(f"no choice of ranks is within all of the budgets {dict(budgets)}")
    best = fits[values[fits, 0].argmin()]
    chosen = grid.ranks[np.arange(len(grid.ranks)), table[best]].tolist()
    return MultiPoint(
        ranks=dict(zip(loss_curves, chosen, strict=True)),
        loss=float(values[best, 0]),
        costs=dict(zip(costs, values[best, 1:].tolist(), strict=True)),
    )


def _undominated(values: Floats) -> Ints:
    order = np.lexsort(values.T[::-1])
    kept: list[int] = []
    front = np.zeros((0, values.shape[1]))
    for i in order.tolist():
        if not (front <= values[i]).all(axis=1).any():
            kept.append(i)
            front = values[kept]
    return np.array(kept, dtype=np.int64)
