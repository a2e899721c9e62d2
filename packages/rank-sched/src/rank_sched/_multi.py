"""Ranks under several budgets at once, such as seconds and bytes."""

from collections.abc import Mapping

import numpy as np

from rank_sched._errors import BudgetError
from rank_sched._grid import Choices, Grid, build_grid, find_prices, scaled
from rank_sched._layers import Floats, Layer
from rank_sched._numbers import number
from rank_sched._point import MultiPoint
from rank_sched._several import improve

Budgets = Mapping[str, float]


class MultiFrontier:
    """Layers with several costs, ready to be asked for ranks within several budgets.

    With one cost the best points form a line that can be sorted once; with several they form a
    surface, so each question is solved on its own: prices for all costs at which the layers, each
    for itself, just keep the budgets, then a search for what the remainder buys.

    Made by `frontier` from costs that map names to tables.

    Attributes:
        min_costs: The smallest feasible value of each cost, on its own, by name.
    """

    def __init__(self, tables: Mapping[str, list[Layer]], *, names: list[str]) -> None:
        self._costs, self._names = list(tables), names
        self._grid = build_grid(list(tables.values()))
        layers = next(iter(tables.values()))
        place = {name: i for i, x in enumerate(layers) for name in x.members or (x.name,)}
        self._group = np.array([place[name] for name in names])
        lowest = self._grid.lowest.sum(axis=1).tolist()
        self.min_costs: Mapping[str, float] = dict(zip(self._costs, lowest, strict=True))

    def __repr__(self) -> str:
        lowest = ", ".join(f"{name} from {cost:g}" for name, cost in self.min_costs.items())
        return f"<MultiFrontier of {len(self._names)} layers, {lowest}>"

    def at(self, budgets: Budgets) -> MultiPoint:
        """Return the point of least loss found within all budgets.

        Args:
            budgets: Upper limit of each cost; costs left out, or infinite, are not limited.

        Raises:
            BudgetError: A budget is below its smallest feasible cost, or no choice was found that
                keeps all of them; the message has the smallest value found that would do.
            ValueError: A budget of no known cost.
        """
        limits, limited = self._limits(budgets)
        grid, limits = scaled(_some(self._grid, limited), limits[limited])
        choices = improve(grid, limits, find_prices(grid, limits))
        return self._point(self._together(budgets) if choices is None else choices)

    def lower_bound(self, budgets: Budgets) -> float:
        """Return a loss that no allocation within the budgets can go below.

        The best Lagrangian dual that the search for prices met.

        Raises:
            BudgetError: A budget is below its smallest feasible cost.
        """
        limits, limited = self._limits(budgets)
        return find_prices(*scaled(_some(self._grid, limited), limits[limited])).bound

    def _limits(self, budgets: Budgets) -> tuple[Floats, list[int]]:
        """Return all limits, `[D]`, and which costs have one."""
        if not isinstance(budgets, Mapping):
            raise TypeError(f"budget must map {', '.join(self._costs)} to numbers, got {budgets!r}")
        limits = np.full(len(self._costs), np.inf)
        for name, value in budgets.items():
            if name not in self.min_costs:
                raise ValueError(f"budget must name one of {self._costs}, got {name!r}")
            limit = number(f"budget[{name!r}]", value)
            if limit < self.min_costs[name]:
                raise BudgetError(
                    f"budget[{name!r}] must be at least {self.min_costs[name]!r}, the smallest "
                    f"feasible value, got {limit!r}"
                )
            limits[self._costs.index(name)] = limit
        return limits, np.flatnonzero(np.isfinite(limits)).tolist()

    def _together(self, budgets: Budgets) -> Choices:
        """Return the choices of least excess, or raise what they lack to keep all budgets."""
        limits, limited = self._limits(budgets)
        for d in limited:
            others = [other for other in limited if other != d]
            # the smallest value of cost d is an allocation too, with that cost as the loss
            priced = Grid(
                np.where(self._grid.ranks >= 0, self._grid.costs[d], np.inf),
                self._grid.costs, self._grid.ranks, self._grid.lowest,
            )  # fmt: skip
            grid, rest = scaled(_some(priced, others), limits[others])
            choices = improve(grid, rest, find_prices(grid, rest))
            if choices is None:
                continue
            if (self._grid.cost(choices) <= limits).all():
                return choices
            least = float(self._grid.cost(choices)[d])
            raise BudgetError(
                f"budget[{self._costs[d]!r}] must be at least {least!r}, the smallest value found "
                f"within the other budgets, got {limits[d].item()!r}"
            )
        raise BudgetError(f"no choice of ranks was found within all of the budgets {dict(budgets)}")

    def _point(self, choices: Choices) -> MultiPoint:
        rows = np.arange(len(choices))
        ranks = self._grid.ranks[rows, choices][self._group].tolist()
        costs = self._grid.cost(choices).tolist()
        return MultiPoint(
            ranks=dict(zip(self._names, ranks, strict=True)),
            loss=self._grid.loss(choices),
            costs=dict(zip(self._costs, costs, strict=True)),
        )


def _some(grid: Grid, costs: list[int]) -> Grid:
    return Grid(grid.losses, grid.costs[costs], grid.ranks, grid.lowest[costs])
