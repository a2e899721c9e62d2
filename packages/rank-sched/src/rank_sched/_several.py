"""Allocation under several budgets at once."""

import numpy as np

from rank_sched._grid import Choices, Grid, Priced
from rank_sched._layers import Floats, Ints

# bounds of the last search, as in `_core`
_LAYERS = 16
_CHOICES = 16
_STATES = 1000
_MOVES = 200

_TINY = 1e-200


def improve(grid: Grid, budgets: Floats, priced: Priced) -> Choices | None:
    """Return choices within all budgets, as good as found; None if none were found.

    Choices at the best prices are brought within the budgets and the rest is spent, one move at a
    time; what remains between their loss and the bound is searched layer by layer.
    """
    starts = [_into(grid, priced.choices, budgets), priced.within]
    filled = [_spend(grid, start, budgets, priced.prices) for start in starts if start is not None]
    if not filled:
        return None
    best = min(filled, key=grid.loss)
    return _search(grid, best, budgets, priced)


def _into(grid: Grid, choices: Choices, budgets: Floats) -> Choices | None:
    """Return choices that keep the budgets, by the moves that lose least per excess removed."""
    choices, rows = choices.copy(), np.arange(len(choices))
    for _ in range(len(choices) + _MOVES):
        over = grid.cost(choices) - budgets
        if (over <= 0).all():
            return choices
        change = grid.costs - grid.costs[:, rows, choices][:, :, None]
        left = np.maximum(over[:, None, None] + change, 0.0).sum(axis=0)
        saved = np.where(grid.ranks >= 0, np.maximum(over, 0.0).sum() - left, 0.0)
        if not (saved > 0).any():
            return None
        lost = np.maximum(grid.losses - grid.losses[rows, choices][:, None], 0.0)
        rate = np.where(saved > 0, saved, 0.0) / np.maximum(lost, _TINY)
        layer, choice = divmod(int(rate.argmax()), rate.shape[1])
        choices[layer] = choice
    return None


def _spend(grid: Grid, choices: Choices, budgets: Floats, prices: Floats) -> Choices:
    """Return choices that lose less within the budgets, by the moves of most gain per price."""
    choices, rows = choices.copy(), np.arange(len(choices))
    prices = prices + float(prices.max(initial=_TINY)) * 1e-6  # nothing is quite free
    for _ in range(_MOVES):
        rest = budgets - grid.cost(choices)
        change = grid.costs - grid.costs[:, rows, choices][:, :, None]
        gain = grid.losses[rows, choices][:, None] - grid.losses
        fits = (gain > 0) & (change <= rest[:, None, None]).all(axis=0)
        if not fits.any():
            break
        price = np.maximum(np.tensordot(prices, change, axes=1), _TINY)
        rate = np.where(fits, np.maximum(gain, 0.0) / price, -1.0)
        layer, choice = divmod(int(rate.argmax()), rate.shape[1])
        choices[layer] = choice
    return choices


def _search(grid: Grid, best: Choices, budgets: Floats, priced: Priced) -> Choices:
    """Return better choices if the cheapest changes to the priced ones contain any.

    loss = bound + Σ excess + prices·rest for all choices, so that only changes whose excesses add
    up to less than `loss(best) - bound` can be part of anything better.
    """
    rows, base = np.arange(len(best)), priced.choices
    excess = grid.losses + np.tensordot(priced.prices, grid.costs, axes=1)
    excess = np.maximum(excess - excess[rows, base][:, None], 0.0)
    excess[rows, base] = -1.0
    gap = grid.loss(best) - priced.bound
    order = np.argsort(excess, axis=1, kind="stable")[:, :_CHOICES]
    cheapest = np.take_along_axis(excess, order, axis=1)
    if order.shape[1] < 2 or gap <= 0:
        return best
    layers = np.argsort(cheapest[:, 1], kind="stable")[:_LAYERS]
    layers = layers[cheapest[layers, 1] < gap]
    state = _States(grid, budgets, priced, best=best)
    for place, layer in enumerate(layers.tolist()):
        own = order[layer][cheapest[layer] < state.gap]
        state.take(layer, own, np.maximum(excess[layer, own], 0.0), layers[place + 1 :])
    return state.best


class _States:
    """Sums of changes layer by layer, and the best of them that keeps the budgets."""

    def __init__(self, grid: Grid, budgets: Floats, priced: Priced, *, best: Choices) -> None:
        self.grid, self.budgets, self.base = grid, budgets, priced.choices
        self.prices, self.bound = priced.prices, priced.bound
        self.best, self.gap = best, grid.loss(best) - priced.bound
        self.costs = grid.cost(self.base)[:, None]  # [D, S]
        self.excess = np.zeros(1)
        self.table: Ints = np.zeros((1, 0), dtype=np.int64)
        self.layers: list[int] = []

    def take(self, layer: int, own: Ints, excess: Floats, later: Ints) -> None:
        """Join the choices of one more layer to all states."""
        present = self.grid.costs[:, layer, [self.base[layer]]]
        change = self.grid.costs[:, layer, own] - present
        costs = (self.costs[:, :, None] + change[:, None, :]).reshape(len(change), -1)
        total = np.add.outer(self.excess, excess).ravel()
        # the most that the layers to come can give back
        down = self.grid.lowest[:, later] - self.grid.costs[:, later, self.base[later]]
        within = costs + down.sum(axis=1)[:, None] <= self.budgets[:, None] * (1 + 1e-12)
        kept = np.flatnonzero((total < self.gap) & within.all(axis=0))
        self.layers.append(layer)
        old, new = np.divmod(kept, len(own))
        self.costs, self.excess = costs[:, kept], total[kept]
        self.table = np.column_stack([self.table[old], own[new]])
        self._enter()
        self._thin()

    def _enter(self) -> None:
        rest = self.budgets[:, None] - self.costs
        value = np.where((rest >= 0).all(axis=0), self.excess + self.prices @ rest, np.inf)
        if not value.size or value.min() >= self.gap:
            return
        found = self.base.copy()
        found[self.layers] = self.table[int(value.argmin())]
        loss = self.grid.loss(found)
        if (self.grid.cost(found) <= self.budgets).all() and loss < self.grid.loss(self.best):
            self.best, self.gap = found, loss - self.bound

    def _thin(self) -> None:
        kept = np.flatnonzero(self.excess < self.gap)
        if len(kept) > _STATES:
            kept = kept[np.argpartition(self.excess[kept], _STATES)[:_STATES]]
        self.costs, self.excess, self.table = (
            self.costs[:, kept],
            self.excess[kept],
            self.table[kept],
        )
