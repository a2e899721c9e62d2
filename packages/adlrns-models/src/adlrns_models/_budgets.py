"""Budgets of elastic models: what each counts, and the frontier it is a limit in."""

from typing import TYPE_CHECKING

import numpy as np

from adlrns_models._costs import layer_cost, rank_choices
from adlrns_models._measured import Measured, conditions_of
from rank_sched import Frontier, frontier

if TYPE_CHECKING:
    from adlrns_models._elastic_budget import Budgeted

SHARES = ("flops", "parameters")  # of the dense cost of the elastic layers
MEASURED = ("latency_s", "energy_j")  # of one call of the whole network
KINDS = (*SHARES, "memory_bytes", *MEASURED)
FORMS = ("factored", "identity")


def check_kind_of_cost(cost: str, form: str) -> None:
    """Raises unless there is such a cost, counted in such a form."""
    if cost not in KINDS:
        raise ValueError(f"cost must be one of {KINDS}, got {cost!r}")
    if form not in FORMS:
        raise ValueError(f"form must be 'factored' or 'identity', got {form!r}")
    if cost in MEASURED and form != "factored":
        raise ValueError(
            f"form must be 'factored' for {cost}, as layers were measured, got {form!r}"
        )


def frontier_of(elastic: "Budgeted", cost: str, form: str) -> Frontier:
    """Returns the frontier of the layers' costs."""
    losses, costs, ranks = {}, {}, {}
    for name, profile in elastic.profiles.items():
        choices = rank_choices(profile.size, elastic._step_of(name), form)
        losses[name] = np.asarray([profile.loss[r] for r in choices])
        costs[name] = np.asarray(costs_of(elastic, name, cost, form, choices))
        ranks[name] = np.asarray(choices)
    return frontier(losses, costs, ranks=ranks)


def costs_of(elastic: "Budgeted", name: str, cost: str, form: str, ranks: list[int]) -> list[float]:
    """Returns the cost of a layer at each of ``ranks``."""
    profile = elastic.profiles[name]
    if cost in SHARES:
        return [layer_cost(cost, profile.size, r, form, groups=profile.groups) for r in ranks]
    if cost == "memory_bytes":
        each = elastic.layers()[name].down.element_size()
        return [each * weights for weights in costs_of(elastic, name, "parameters", form, ranks)]
    seconds = measured_of(elastic, cost).layer_s(name, ranks)
    return [_per_second(elastic, cost) * s for s in seconds]


def full_cost_of(elastic: "Budgeted", cost: str) -> float:
    """Returns the cost of the elastic layers at full rank, or of the whole call where measured."""
    layers = sum(
        costs_of(elastic, name, cost, "factored", [profile.size.max_rank])[0]
        for name, profile in elastic.profiles.items()
    )
    return layers + rest_of(elastic, cost)


def rest_of(elastic: "Budgeted", cost: str) -> float:
    """Returns what a call costs beside the elastic layers; 0 for costs that leave that out."""
    if cost not in MEASURED:
        return 0.0
    found = measured_of(elastic, cost)
    if cost == "latency_s":
        return found.rest_s
    assert found.idle_j is not None
    return found.idle_j + _per_second(elastic, cost) * found.rest_s


def limit_of(elastic: "Budgeted", cost: str, form: str, value: float) -> float:
    """Returns what the elastic layers may cost for a budget of ``value``.

    Raises:
        ValueError: if the model cannot run at so little, which the message states.
    """
    smallest, rest = elastic.frontier(cost, form).min_cost, rest_of(elastic, cost)
    full = full_cost_of(elastic, cost)
    limit = value * full if cost in SHARES else value - rest
    if limit < smallest:
        least = smallest / full if cost in SHARES else smallest + rest
        of = " of the dense cost" if cost in SHARES else ""
        raise ValueError(
            f"{cost} must be at least {least:.4g}{of}, the smallest this model can run at, "
            f"got {value}"
        )
    return limit


def measured_of(elastic: "Budgeted", cost: str) -> Measured:
    """Returns the measurements that a cost is predicted from.

    Raises:
        ValueError: if there are none, none of energy, or only those of another machine, number of
            threads or precision.
    """
    found = elastic.measured
    if found is None:
        raise ValueError(f"{cost} must be measured first: call measure(batch)")
    if cost == "energy_j" and found.watts is None:
        raise ValueError("energy_j must be measured first: call measure(batch, meter=...)")
    here = conditions_of(elastic)
    if differs := [key for key in here if here[key] != found.machine.get(key)]:
        key = differs[0]
        raise ValueError(
            f"{cost} must be measured for {key} {here[key]}, as the model runs now, got "
            f"measurements of {found.machine.get(key, 'an unknown one')}: call measure(batch)"
        )
    return found


def _per_second(elastic: "Budgeted", cost: str) -> float:
    if cost == "latency_s":
        return 1.0
    watts = measured_of(elastic, cost).watts
    assert watts is not None
    return watts
