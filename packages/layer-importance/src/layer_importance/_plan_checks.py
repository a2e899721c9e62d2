"""What is refused before a plan is searched for: wrong arguments, foreign reports, far targets."""

import math
import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn

from layer_importance._costs import Costs
from layer_importance._plan_space import Names, Space
from layer_importance._plan_target import Target
from layer_importance._units import Units


def check_words(
    units: Any, evaluations: Any, keep: Sequence[str], tied: Sequence[Sequence[str]]
) -> None:
    """Raises a ``ValueError`` that names the argument, if one is of the wrong kind."""
    for name, number in (("units", units), ("evaluations", evaluations)):
        if number is not None:
            try:
                least = operator.index(number)
            except TypeError:
                raise ValueError(f"{name} must be a whole number, got {number!r}") from None
            if least < 0:
                raise ValueError(f"{name} must be at least 0, got {number}")
    if isinstance(keep, str):
        raise ValueError(f"keep must be a list of names, got {keep!r}")
    if isinstance(tied, str) or any(isinstance(group, str) for group in tied):
        raise ValueError(f"tied must be a list of lists of names, got {tied!r}")


def check_report(model: nn.Module, units: Units) -> None:
    """Raises a ``ValueError`` if the units of a report are not those of the model."""
    known = dict(model.named_modules(remove_duplicate=False))
    if missing := [unit.name for unit in units if unit.path not in known]:
        raise ValueError(f"report must be of the model, got one with {missing[0]}, which is not")
    held = {u.name: {id(p): p.numel() for p in known[u.path].parameters()} for u in units}
    times = Counter(key for sizes in held.values() for key in sizes)
    for unit in units:
        kind, size = type(known[unit.path]).__name__, sum(held[unit.name].values())
        # a parameter that units share counts for one of them
        shared = any(times[key] > 1 for key in held[unit.name])
        fits = unit.parameters <= size if shared else unit.parameters == size
        if kind != unit.type_name or not fits:
            raise ValueError(
                f"report must be of the model, got one in which {unit.name} is a "
                f"{unit.type_name} of {unit.parameters} parameters, not a {kind} of {size}"
            )


def most_freed(sets: Space) -> Names:
    """Returns a set that frees as much as any that is allowed."""
    found: Names = frozenset()
    for group in sorted(sets.groups, key=lambda group: -sets.gain(frozenset(group))):
        if sets.allows(grown := found | set(group)):
            found = grown
    return found


def check_reachable(sets: Space, wanted: Target, costs: Costs, units: Units) -> None:
    """Raises a ``ValueError`` that says what can be had, if the target cannot."""
    most = most_freed(sets)
    if sets.fits(most):
        return
    total = wanted.total(costs, units)
    left = total - sets.gain(most)
    kind, value = wanted.asked["kind"], wanted.asked["value"]
    ratio = math.floor(1e3 * total / left) / 1e3 if left else math.inf
    bound = f"at most {ratio:g}" if kind == "target_ratio" else f"at least {left:.6g}"
    quotas = ", one of each type has to stay" if sets.quotas else ""
    raise ValueError(
        f"{kind} must be reachable, {bound}: {len(most)} of {len(units)} units may go"
        f"{quotas}; got {value}"
    )
