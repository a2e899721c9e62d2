"""Budgets of layers within the budget of the model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from rank_sched._budget import BudgetManager
from rank_sched._budget_state import BudgetState, Grant
from rank_sched._cost import Cost
from rank_sched._numbers import number_in


class LayerGrant(NamedTuple):
    """A piece of work that all buckets pay for.

    Attributes:
        total: The grant of the model.
        layers: The grants of its layers.
    """

    total: Grant
    layers: Mapping[str, Grant]


class LayerBudgetsState(NamedTuple):
    """Where `LayerBudgets` stand.

    Attributes:
        total: State of the model's bucket.
        layers: States of the layers' buckets.
    """

    total: BudgetState
    layers: Mapping[str, BudgetState]


@dataclass(frozen=True)
class LayerBudgets:
    """Buckets of layers inside the bucket of the model: what a layer spends, both pay for.

    Every bucket keeps what a `BudgetManager` promises; so what a layer with a bucket may spend must
    be asked for, if only with a cost of 0, which is admitted once its debts are paid. The rates of
    the layers may add up to more than that of the model; it then decides who waits. Layers without
    a bucket of their own spend from that of the model alone.

    Attributes:
        total: The budget of the model.
        layers: The budgets of layers, by name, in the same unit.

    >>> budgets = LayerBudgets.split(BudgetManager(10.0, 20.0), {"wide": 0.75, "narrow": 0.5})
    >>> state = budgets.init(now=0.0)
    >>> granted, state = budgets.admit(state, 0.0, {"wide": 4.0, "narrow": 10.0})
    >>> state.total.tokens, state.layers["wide"].tokens, state.layers["narrow"].tokens
    (6.0, 11.0, 0.0)
    >>> budgets.admit(state, 0.0, {"narrow": 1.0})[0] is None
    True
    """

    total: BudgetManager
    layers: Mapping[str, BudgetManager]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", dict(self.layers))
        for name, layer in self.layers.items():
            if layer.unit != self.total.unit:
                raise ValueError(
                    f"layers[{name!r}] must count {self.total.unit} as the total does, "
                    f"got {layer.unit}"
                )

    @classmethod
    def split(cls, total: BudgetManager, shares: Mapping[str, float]) -> "LayerBudgets":
        """Return budgets whose layers have a share of the model's rate and capacity each.

        Args:
            total: The budget of the model.
            shares: Share of each layer, above 0 and at most 1; the sum is free.

        Raises:
            ValueError: A share is outside, or there is none.
        """
        if not shares:
            raise ValueError("shares must name at least one layer, got none")
        assert total.initial is not None
        layers = {}
        for name, share in shares.items():
            part = number_in(f"shares[{name!r}]", share, math.ulp(0.0), 1.0)
            layers[name] = replace(
                total,
                rate=part * total.rate,
                capacity=part * total.capacity,
                initial=part * total.initial,
            )
        return cls(total, layers)

    def init(self, now: float) -> LayerBudgetsState:
        """Return the state at the first reading of the clock."""
        layers = {name: layer.init(now) for name, layer in self.layers.items()}
        return LayerBudgetsState(self.total.init(now), layers)

    def at(self, state: LayerBudgetsState, now: float) -> LayerBudgetsState:
        """Return the state at a time: refilled, and corrected if a tick is due."""
        layers = {name: layer.at(state.layers[name], now) for name, layer in self.layers.items()}
        return LayerBudgetsState(self.total.at(state.total, now), layers)

    def admit(
        self, state: LayerBudgetsState, now: float, cost: Mapping[str, float | Cost]
    ) -> tuple[LayerGrant | None, LayerBudgetsState]:
        """Return a grant if the model's bucket and those of all layers named pay, else None.

        Raises:
            BudgetError: One of the buckets would not even pay if it were full.
            ValueError: A cost is negative, NaN or infinite.
        """
        whole = self._feasible(cost)
        state = self.at(state, now)
        granted, total = self.total.admit(state.total, now, whole)
        layers, grants = dict(state.layers), {}
        for name in self._own(cost):
            grant, layers[name] = self.layers[name].admit(layers[name], now, cost[name])
            if grant is None or granted is None:
                return None, state  # nobody is charged
            grants[name] = grant
        if granted is None:
            return None, state
        return LayerGrant(granted, grants), LayerBudgetsState(total, layers)

    def settle(
        self,
        state: LayerBudgetsState,
        granted: LayerGrant,
        measured: Mapping[str, float | Cost] | None = None,
    ) -> LayerBudgetsState:
        """Return the state in which a grant is worth what was measured for each layer.

        Args:
            state: The state so far.
            granted: What `admit` gave; every grant is settled once.
            measured: What the layers took, those of the grant among them and no others that have a
                bucket; what was charged if not given.

        Raises:
            ValueError: A layer of the grant is missing, one with a bucket is not of the grant, or a
                measurement is no amount.
        """
        layers, total = dict(state.layers), None
        if measured is not None:
            total = self._sum("measured", measured)
            missing = set(granted.layers) - set(measured)
            if missing:
                raise ValueError(f"measured must name the layers {sorted(missing)} of the grant")
            if unasked := set(self._own(measured)) - set(granted.layers):
                raise ValueError(
                    f"measured must name no layers with a budget beyond those of the grant, got "
                    f"{sorted(unasked)}: what they may cost belongs into admit"
                )
        for name, grant in granted.layers.items():
            own = None if measured is None else measured[name]
            layers[name] = self.layers[name].settle(layers[name], grant, own)
        return LayerBudgetsState(self.total.settle(state.total, granted.total, total), layers)

    def wait_s(
        self, state: LayerBudgetsState, now: float, cost: Mapping[str, float | Cost]
    ) -> float:
        """Return the seconds until all buckets pay, if nothing else is done till then.

        Raises:
            BudgetError: One of the buckets would not even pay if it were full.
        """
        whole = self._feasible(cost)
        own = [self.layers[x].wait_s(state.layers[x], now, cost[x]) for x in self._own(cost)]
        return max([self.total.wait_s(state.total, now, whole), *own])

    def _feasible(self, cost: Mapping[str, float | Cost]) -> float:
        """Return the sum of the costs, if all buckets would pay their part."""
        whole = self._sum("cost", cost)
        for name in self._own(cost):
            self.layers[name].feasible(cost[name], argument=f"cost[{name!r}]")
        return self.total.feasible(whole, argument="the sum of cost")

    def _own(self, cost: Mapping[str, float | Cost]) -> list[str]:
        return [name for name in cost if name in self.layers]

    def _sum(self, argument: str, cost: Mapping[str, float | Cost]) -> float:
        if not isinstance(cost, Mapping):
            raise TypeError(f"{argument} must be a mapping, one amount a layer, got {cost!r}")
        amounts = [
            self.total.amount(f"{argument}[{name!r}]", value) for name, value in cost.items()
        ]
        return math.fsum(amounts)
