"""The two ways to ask for ranks: for one budget, and for all of them."""

from collections.abc import Mapping
from typing import overload

from rank_sched._constraints import Bound, Ties, constrain
from rank_sched._frontier import Frontier
from rank_sched._layers import Layer, Tables, read_layers
from rank_sched._multi import Budgets, MultiFrontier
from rank_sched._point import MultiPoint, OperatingPoint
from rank_sched._steps import build_steps

ManyTables = Mapping[str, Tables]


@overload
def frontier(
    loss_curves: Tables,
    costs: Tables,
    *,
    ranks: Tables | None = None,
    r_min: Bound = None,
    r_max: Bound = None,
    tied: Ties = (),
) -> Frontier: ...


@overload
def frontier(
    loss_curves: Tables,
    costs: ManyTables,
    *,
    ranks: Tables | None = None,
    r_min: Bound = None,
    r_max: Bound = None,
    tied: Ties = (),
) -> MultiFrontier: ...


def frontier(
    loss_curves: Tables,
    costs: Tables | ManyTables,
    *,
    ranks: Tables | None = None,
    r_min: Bound = None,
    r_max: Bound = None,
    tied: Ties = (),
) -> Frontier | MultiFrontier:
    """Return all operating points worth having, so that any budget is a search in them.

    For each layer the choices are reduced to the lower convex hull of its points (cost, loss). The
    steps between the vertices of all hulls are sorted once by gain per cost: every prefix of that
    list minimises Σ loss + λ·Σ cost for some λ >= 0, so nothing of the same cost loses less. For a
    convex loss curve and a linear cost this is water-filling: a layer takes every rank whose gain
    is worth more than λ times its cost.

    Args:
        loss_curves: Loss of the layer at each of its choices, by layer, `[K_l]`. Any shape of
            curve; losses of different layers must be on one scale, because they are added.
        costs: Cost of the layer at each choice, `[K_l]`, all in one unit (FLOPs, seconds, joules,
            bytes). Any shape, such as a last, dense choice that costs less than the rank before.
            For several budgets at once, such tables by the name of the cost.
        ranks: The rank that each choice stands for, `[K_l]`; by default 0, 1, 2, ... Two choices
            may stand for one rank, such as its factors and its dense form.
        r_min: The smallest rank allowed, for all layers or by name.
        r_max: The largest, likewise; a dense choice counts as the rank it stands for.
        tied: Groups of layers that take the same rank, one they all have.

    Raises:
        ValueError: A table misses a layer, has the wrong length, or a value that is not finite or,
            for costs and ranks, negative; a bound or a tie leaves a layer without a choice.
        TypeError: A table does not hold numbers.

    >>> curves = {"wide": [8.0, 3.0, 1.0, 0.0], "narrow": [2.0, 1.0, 0.5, 0.0]}
    >>> costs = {"wide": [0, 4, 8, 12], "narrow": [0, 1, 2, 3]}
    >>> points = frontier(curves, costs)
    >>> points
    <Frontier of 7 points, 2 layers, cost 0..15, loss 10..0>
    >>> points.at(6)
    OperatingPoint(ranks={'wide': 1, 'narrow': 2}, loss=3.5, cost=6.0)
    >>> points.at_loss(2.0).cost
    9.0
    >>> frontier(curves, costs, r_min=1, tied=[("wide", "narrow")])[0].ranks
    {'wide': 1, 'narrow': 1}
    """

    def read(table: Tables) -> list[Layer]:
        layers = read_layers(loss_curves, table, ranks)
        return constrain(layers, r_min=r_min, r_max=r_max, tied=tied)

    if many := _many(costs):
        tables = {name: read(table) for name, table in many.items()}
        return MultiFrontier(tables, names=list(loss_curves))
    return Frontier(build_steps(read(costs), names=list(loss_curves)))  # type: ignore[arg-type]


def _many(costs: Tables | ManyTables) -> ManyTables:
    """Return the tables by cost, nothing if there is one cost without a name."""
    if not isinstance(costs, Mapping) or not any(isinstance(x, Mapping) for x in costs.values()):
        return {}
    return costs  # type: ignore[return-value]  # a table among these is found by `read_layers`


@overload
def allocate(
    loss_curves: Tables,
    costs: Tables,
    budget: float,
    *,
    ranks: Tables | None = None,
    r_min: Bound = None,
    r_max: Bound = None,
    tied: Ties = (),
) -> OperatingPoint: ...


@overload
def allocate(
    loss_curves: Tables,
    costs: ManyTables,
    budget: Budgets,
    *,
    ranks: Tables | None = None,
    r_min: Bound = None,
    r_max: Bound = None,
    tied: Ties = (),
) -> MultiPoint: ...


def allocate(
    loss_curves: Tables,
    costs: Tables | ManyTables,
    budget: float | Budgets,
    *,
    ranks: Tables | None = None,
    r_min: Bound = None,
    r_max: Bound = None,
    tied: Ties = (),
) -> OperatingPoint | MultiPoint:
    """Return the ranks that lose least, as far as found, while their cost is within `budget`.

    The same as `frontier(loss_curves, costs, ranks=ranks).at(budget)`; keep the frontier when more
    than one budget is asked for. Arguments and errors are those of `frontier`; in addition:

    Args:
        loss_curves: Loss of each layer at each choice, `[K_l]`.
        costs: Cost of each layer at each choice, `[K_l]`; several, by name, for several budgets.
        budget: Upper limit of the summed cost; with several costs, limits by their names. A cost
            that is not named has no limit and stands in the result all the same.
        ranks: The rank that each choice stands for, `[K_l]`.
        r_min: The smallest rank allowed.
        r_max: The largest rank allowed.
        tied: Groups of layers that take the same rank.

    Raises:
        BudgetError: The budget is below the smallest feasible cost, which the message states.

    >>> allocate({"a": [5.0, 1.0, 0.0]}, {"a": [0, 10, 20]}, budget=15)
    OperatingPoint(ranks={'a': 1}, loss=1.0, cost=10.0)
    >>> costs = {"latency_s": {"a": [0, 2, 3]}, "memory_bytes": {"a": [0, 10, 20]}}
    >>> allocate({"a": [5.0, 1.0, 0.0]}, costs, {"latency_s": 9, "memory_bytes": 15}).ranks
    {'a': 1}
    """
    points = frontier(loss_curves, costs, ranks=ranks, r_min=r_min, r_max=r_max, tied=tied)
    return points.at(budget)  # type: ignore[arg-type]  # refused there if it is of the other kind
