"""Layers whose choices have several costs, as arrays, and what prices make of them."""

from dataclasses import dataclass

import numpy as np

from rank_sched._layers import Floats, Ints, Layer

Choices = Ints  # [L], one choice per layer


@dataclass(frozen=True, eq=False)
class Grid:
    """Losses and costs of all choices of all layers, padded to the longest.

    Attributes:
        losses: `[L, K]`, infinite where a layer has no such choice.
        costs: `[D, L, K]`, 0 there.
        ranks: `[L, K]`, -1 there.
        lowest: The least of each cost for each layer, `[D, L]`.
    """

    losses: Floats
    costs: Floats
    ranks: Ints
    lowest: Floats

    def loss(self, choices: Choices) -> float:
        """Return the summed loss."""
        return float(self.losses[np.arange(len(choices)), choices].sum())

    def cost(self, choices: Choices) -> Floats:
        """Return the summed costs, `[D]`."""
        return self.costs[:, np.arange(len(choices)), choices].sum(axis=1)

    def cheapest(self, prices: Floats) -> Choices:
        """Return the choices that minimise loss + prices·cost, layer by layer."""
        return (self.losses + np.tensordot(prices, self.costs, axes=1)).argmin(axis=1)


def build_grid(tables: list[list[Layer]]) -> Grid:
    """Return the arrays of the same layers under each of several costs."""
    first = tables[0]
    sizes = np.array([len(layer.losses) for layer in first])
    shape = (len(first), int(sizes.max()))
    losses, costs = np.full(shape, np.inf), np.zeros((len(tables), *shape))
    ranks = np.full(shape, -1, dtype=np.int64)
    for i, layer in enumerate(first):
        losses[i, : sizes[i]], ranks[i, : sizes[i]] = layer.losses, layer.ranks
        for d, layers in enumerate(tables):
            costs[d, i, : sizes[i]] = layers[i].costs
    return Grid(losses, costs, ranks, lowest=_lowest(costs, ranks))


def scaled(grid: Grid, budgets: Floats) -> tuple[Grid, Floats]:
    """Return the grid and its budgets in units that bring each budget to 1..2, or to 0.

    The units are powers of two, so that what fits does so before and after.
    """
    most = np.where(budgets > 0, budgets, grid.costs.max(axis=(1, 2)))
    unit = 2.0 ** np.floor(np.log2(np.where(most > 0, most, 1.0)))
    costs = grid.costs / unit[:, None, None]
    return Grid(grid.losses, costs, grid.ranks, grid.lowest / unit[:, None]), budgets / unit


def _lowest(costs: Floats, ranks: Ints) -> Floats:
    return np.where(ranks >= 0, costs, np.inf).min(axis=2)


@dataclass(frozen=True, eq=False)
class Priced:
    """What the search for prices leaves: the best bound and the choices seen on the way.

    Attributes:
        prices: Those of the best bound, `[D]`.
        bound: A loss that no choice within the budgets goes below.
        choices: What minimises loss + prices·cost.
        within: Choices within all budgets, the least loss seen; None if there were none.
    """

    prices: Floats
    bound: float
    choices: Choices
    within: Choices | None


def find_prices(grid: Grid, budgets: Floats, *, rounds: int = 80) -> Priced:
    """Return prices that make the layers, each on its own, nearly keep all budgets.

    For prices λ >= 0 the dual q(λ) = Σ_l min_k (loss + λ·cost) - λ·B bounds the loss from below
    (Everett 1963), and its slope in λ_d is cost_d - B_d. Each price is raised while its budget is
    exceeded and lowered while it is not, by a factor that grows until the sign turns and shrinks
    from there (Riedmiller & Braun 1993, "RPROP"); where no budget binds, prices fade to nothing.

    Args:
        grid: The layers.
        budgets: In the units of `scaled`, `[D]`.
        rounds: Prices tried.
    """
    nothing = np.zeros(len(budgets))
    best = _seen(grid, nothing, grid.cheapest(nothing), budgets, None)
    log_price = np.full(len(budgets), np.log(_spread(grid)))
    step, before = np.full(len(budgets), np.log(4.0)), nothing
    for _ in range(rounds):
        prices = np.exp(log_price)
        choices = grid.cheapest(prices)
        best = _seen(grid, prices, choices, budgets, best)
        sign = np.sign(grid.cost(choices) - budgets)
        step = np.clip(step * np.where(sign * before < 0, 0.5, 1.2), 1e-9, np.log(16.0))
        log_price, before = np.clip(log_price + sign * step, -600.0, 600.0), sign
    return best


def _spread(grid: Grid) -> float:
    """Return a price at which all losses together are worth one budget."""
    worst = np.where(grid.ranks >= 0, grid.losses, -np.inf).max(axis=1)
    return float((worst - grid.losses.min(axis=1)).sum()) or 1.0


def _seen(
    grid: Grid, prices: Floats, choices: Choices, budgets: Floats, best: Priced | None
) -> Priced:
    loss, cost = grid.loss(choices), grid.cost(choices)
    bound = loss + float(prices @ (cost - budgets))
    within = best.within if best else None
    if (cost <= budgets).all() and (within is None or loss < grid.loss(within)):
        within = choices
    if best is None or bound > best.bound:
        return Priced(prices, bound, choices, within)
    return Priced(best.prices, best.bound, best.choices, within)
