"""Budgets of an elastic model: what they cost, and the ranks they choose."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from adlrns_models._budgets import (
    KINDS,
    MEASURED,
    check_kind_of_cost,
    frontier_of,
    full_cost_of,
    limit_of,
    measured_of,
)
from adlrns_models._calibrate import Forward, default_forward
from adlrns_models._checks import check_budget, check_int
from adlrns_models._elastic_ranks import RanksInForce
from adlrns_models._layer import AdaptiveLayer
from adlrns_models._measure import evaluating, measure
from adlrns_models._measured import Measured
from adlrns_models._profile import LayerProfile
from rank_sched import EnergyMeter, Frontier, OperatingPoint

BUDGETS = (*KINDS, "loss")


class Budgeted(nn.Module):
    """The part of an :class:`ElasticModel` that knows costs and chooses ranks."""

    profiles: dict[str, LayerProfile]
    multiple_of: int | None
    info: dict[str, Any]
    measured: Measured | None
    _layers: Mapping[str, AdaptiveLayer]
    _in_force: RanksInForce
    _frontiers: dict[tuple[object, ...], Frontier]

    def layers(self) -> dict[str, AdaptiveLayer]:
        """Returns the elastic layers by name."""
        return dict(self._layers)

    def frontier(self, cost: str = "flops", form: str = "factored") -> Frontier:
        """Returns the operating points that no other beats, for one kind of cost.

        Args:
            cost: ``"flops"`` per sample, ``"parameters"`` or ``"memory_bytes"`` of the elastic
                layers' weights; ``"latency_s"`` or ``"energy_j"`` of these layers in one call, as
                :meth:`measure` found.
            form: how layers are stored: ``"factored"`` (as they run) or ``"identity"`` (as
                :func:`materialize_model` can settle them, cheaper).

        Raises:
            ValueError: for an unknown cost or form.
        """
        check_kind_of_cost(cost, form)
        if cost in MEASURED:
            measured_of(self, cost)  # of this machine and precision, though a frontier is known
        sizes = tuple(layer.down.element_size() for layer in self._layers.values())
        key = (cost, form, sizes if cost == "memory_bytes" else ())
        if key not in self._frontiers:
            self._frontiers[key] = frontier_of(self, cost, form)
        return self._frontiers[key]

    def full_cost(self, cost: str = "flops") -> float:
        """Returns the cost at full rank: of the elastic layers, or of a call where measured."""
        check_kind_of_cost(cost, "factored")
        return full_cost_of(self, cost)

    def measure(
        self,
        batch: Any,
        *,
        forward: Forward = default_forward,
        repeats: int = 20,
        meter: EnergyMeter | None = None,
    ) -> Measured:
        """Measures what calls on inputs like ``batch`` take here, for budgets in such units.

        Every elastic layer is timed at some ranks where it runs, inside calls of the whole network;
        operating points take turns. :meth:`save` keeps the result; another machine, or other thread
        counts, need their own. Calls of compiled graphs are not what is measured. Meanwhile a layer
        holds a copy of the active part of ``up`` for each of these ranks, and one dense weight.

        Args:
            batch: one batch, as for :func:`make_elastic`. Times are those of its size.
            forward: ``forward(model, batch)``, for other kinds of batches.
            repeats: timed calls of each kind, whose median counts.
            meter: measures energy as well, in windows of a second or more.

        Example:
            >>> import torch
            >>> from adlrns_models import make_elastic
            >>> x = torch.randn(1024, 256)
            >>> elastic = make_elastic(torch.nn.Linear(256, 512), [x])
            >>> measured = elastic.measure(x, repeats=3)
            >>> point = elastic.set_budget(latency_s=1.0)
            >>> elastic.ranks()
            {'': 256}
        """
        check_int("repeats", repeats, 1)
        with evaluating(self), torch.compiler.set_stance("force_eager"):
            self.measured = measure(self, batch, forward=forward, repeats=repeats, meter=meter)
        self.info["measured"] = self.measured.to_dict()
        for cost in MEASURED:
            self._frontiers.pop((cost, "factored", ()), None)
        return self.measured

    def set_budget(
        self,
        *,
        flops: float | None = None,
        parameters: float | None = None,
        memory_bytes: float | None = None,
        latency_s: float | None = None,
        energy_j: float | None = None,
        loss: float | None = None,
        form: str = "factored",
    ) -> OperatingPoint:
        """Runs at the best ranks within one budget from now on, and returns them.

        Args:
            flops: share ``0..1`` of the dense FLOPs of the elastic layers.
            parameters: share ``0..1`` of their dense weights.
            memory_bytes: bytes of their weights, in the form they are counted in.
            latency_s: seconds of a call of the whole network, on inputs like those of
                :meth:`measure`, which must have run.
            energy_j: joules of such a call.
            loss: largest predicted loss; the fewest FLOPs that keep it.
            form: the form that the cost is counted in, see :meth:`frontier`. A model budgeted as
                ``"identity"`` keeps to the budget when it is settled in that form.

        Raises:
            TypeError: unless exactly one budget is given, as a number.
            ValueError: if the budget is out of range or below the smallest possible; the ranks
                then stay as they were.

        Example:
            >>> import torch
            >>> from adlrns_models import make_elastic
            >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Linear(32, 8))
            >>> elastic = make_elastic(model, [torch.randn(64, 16)])
            >>> point = elastic.set_budget(flops=0.5)
            >>> bool(point.cost <= 0.5 * elastic.full_cost())
            True
        """
        point = self.point_for(
            flops=flops,
            parameters=parameters,
            memory_bytes=memory_bytes,
            latency_s=latency_s,
            energy_j=energy_j,
            loss=loss,
            form=form,
        )
        self._in_force.put(self._in_force.checked(point.ranks), point)
        return point

    def point_for(self, *, form: str = "factored", **budget: Any) -> OperatingPoint:
        """Returns the operating point that :meth:`set_budget` would choose, and changes nothing.

        Args:
            form: as for :meth:`set_budget`.
            budget: one of the budgets of :meth:`set_budget`.

        Raises:
            TypeError, ValueError: as :meth:`set_budget` does.
        """
        if unknown := sorted(budget.keys() - set(BUDGETS)):
            raise TypeError(f"budget must be one of {', '.join(BUDGETS)}, got {unknown[0]!r}")
        name, value = check_budget(**(dict.fromkeys(BUDGETS) | budget))
        if name == "loss":
            return self.frontier("flops", form).at_loss(value)
        return self.frontier(name, form).at(limit_of(self, name, form, value))

    def _step_of(self, name: str) -> int:
        if self.multiple_of is not None:
            return self.multiple_of
        # products like ranks in eights; a small layer has too few ranks to give any away
        return 8 if self.profiles[name].size.max_rank >= 256 else 1
