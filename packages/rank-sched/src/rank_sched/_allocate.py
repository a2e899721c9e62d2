"""The two ways to ask for ranks: for one budget, and for all of them."""

from rank_sched._frontier import Frontier
from rank_sched._layers import Tables, read_layers
from rank_sched._point import OperatingPoint
from rank_sched._steps import build_steps


def frontier(loss_curves: Tables, costs: Tables, *, ranks: Tables | None = None) -> Frontier:
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
        ranks: The rank that each choice stands for, `[K_l]`; by default 0, 1, 2, ...

    Raises:
        ValueError: A table misses a layer, has the wrong length, or a value that is not finite or,
            for costs and ranks, negative.
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
    """
    return Frontier(build_steps(read_layers(loss_curves, costs, ranks)))


def allocate(
    loss_curves: Tables, costs: Tables, budget: float, *, ranks: Tables | None = None
) -> OperatingPoint:
    """Return the ranks that lose least, as far as found, while their cost is within `budget`.

    The same as `frontier(loss_curves, costs, ranks=ranks).at(budget)`; keep the frontier when more
    than one budget is asked for. Arguments and errors are those of `frontier`; in addition:

    Args:
        loss_curves: Loss of each layer at each choice, `[K_l]`.
        costs: Cost of each layer at each choice, `[K_l]`.
        budget: Upper limit of the summed cost.
        ranks: The rank that each choice stands for, `[K_l]`.

    Raises:
        BudgetError: The budget is below the smallest feasible cost, which the message states.

    >>> allocate({"a": [5.0, 1.0, 0.0]}, {"a": [0, 10, 20]}, budget=15)
    OperatingPoint(ranks={'a': 1}, loss=1.0, cost=10.0)
    """
    return frontier(loss_curves, costs, ranks=ranks).at(budget)
