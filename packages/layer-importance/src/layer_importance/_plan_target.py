"""What a plan is asked for, and which units it may touch."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from layer_importance._costs import Costs
from layer_importance._plan_space import Space
from layer_importance._units import Unit, Units

RATIO_OF = ("parameters", "layers")
"""What a target ratio may be a ratio of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the model may cost afterwards.

    Attributes:
        kind: ``parameters``, ``flops``, ``seconds`` or ``units``.
        most: at most this much.
        asked: as it was asked for: ``kind`` and ``value``.
    """

    kind: str
    most: float
    asked: Mapping[str, float | str]

    def total(self, costs: Costs, units: Units) -> float:
        """Returns what the model costs now."""
        return float(len(units)) if self.kind == "units" else costs.totals[self.kind]

    def freed(self, costs: Costs, names: Collection[str]) -> float:
        """Returns what goes with the named units."""
        return float(len(names)) if self.kind == "units" else costs.freed(self.kind, names)


def target(
    costs: Costs,
    units: Units,
    *,
    target_ratio: float | None,
    ratio_of: str = RATIO_OF[0],
    params: float | None,
    flops: float | None,
    latency_s: float | None,
    keep_units: int | None,
) -> Target:
    """Returns the one target that was given.

    Raises:
        ValueError: if it is not exactly one, or out of its range.
    """
    given = {
        "target_ratio": target_ratio,
        "params": params,
        "flops": flops,
        "latency_s": latency_s,
        "units": keep_units,
    }
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        raise ValueError(
            f"exactly one of {', '.join(given)} must be given, got {', '.join(named) or 'none'}"
        )
    ((name, value),) = named.items()
    asked: dict[str, float | str] = {"kind": name, "value": value}
    if name == "target_ratio":
        if not value >= 1:
            raise ValueError(f"target_ratio must be at least 1, got {value}")
        return _ratio(value, ratio_of, costs, units)
    kind = {"params": "parameters", "latency_s": "seconds"}.get(name, name)
    found = Target(kind=kind, most=float(value), asked=asked)
    total = found.total(costs, units)
    if math.isnan(total):
        raise ValueError(f"{name} cannot be planned for: {'; '.join(costs.notes)}")
    if not 0 <= value <= total:
        raise ValueError(f"{name} must be in 0..{total:.6g}, what it is now, got {value}")
    return found


def _ratio(value: float, of: str, costs: Costs, units: Units) -> Target:
    if of not in RATIO_OF:
        raise ValueError(f"ratio_of must be one of {', '.join(RATIO_OF)}, got {of!r}")
    asked: dict[str, float | str] = {"kind": "target_ratio", "value": value, "ratio_of": of}
    if of == "parameters":
        return Target(kind=of, most=costs.totals[of] / value, asked=asked)
    if value > len(units):
        raise ValueError(
            f"target_ratio must be at most {len(units)}, the number of layers, got {value}"
        )
    return Target(kind="units", most=float(int(len(units) / value + 1e-9)), asked=asked)


def space(
    units: Units,
    costs: Costs,
    wanted: Target,
    *,
    keep: Sequence[str],
    keep_types: bool,
    keep_ends: tuple[int, int],
    tied: Sequence[Sequence[str]],
) -> tuple[Space, dict[str, str]]:
    """Returns the sets to choose from, and why single units are in none of them.

    Raises:
        ValueError: if a name is no unit, or no unit may go.
    """
    for what, names in (("keep", keep), *(("tied", group) for group in tied)):
        if unknown := [name for name in names if name not in units.names]:
            raise ValueError(f"{what} must name units, got {', '.join(unknown)}")
    if min(keep_ends) < 0:
        raise ValueError(f"keep_ends must be two numbers of at least 0, got {keep_ends}")
    reasons = {unit.name: f"it {unit.reason}" for unit in units if unit.reason}
    reasons |= dict.fromkeys(keep, "asked for") | _ends(units, keep_ends)
    groups = _groups(units, tied)
    for group in groups:
        held = [name for name in group if name in reasons]
        for name in group:
            if held and name not in reasons:
                reasons[name] = f"tied to {held[0]}"
    free = tuple(group for group in groups if not any(name in reasons for name in group))
    if not free:
        raise ValueError("model must have a unit that may go, got none")
    return (
        Space(
            groups=free,
            gain=lambda names: wanted.freed(costs, names),
            need=wanted.total(costs, units) - wanted.most,
            quotas=_types(units) if keep_types else (),
        ),
        reasons,
    )


def _ends(units: Units, keep_ends: tuple[int, int]) -> dict[str, str]:
    found: dict[str, str] = {}
    for tower in units.towers.values():
        first, last = tower[: keep_ends[0]], tower[len(tower) - keep_ends[1] :]
        found |= {unit.name: "first or last of its tower" for unit in (*first, *last)}
    return found


def _groups(units: Units, tied: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Units in order, with groups that share one joined where the first of them stands."""
    of = {name: {name} for name in units.names}
    for group in tied:
        joined = set().union(*(of[name] for name in group))
        for name in joined:
            of[name] = joined
    found: dict[int, tuple[str, ...]] = {}
    for name in units.names:
        found.setdefault(id(of[name]), tuple(n for n in units.names if n in of[name]))
    return list(found.values())


def _types(units: Units) -> tuple[frozenset[str], ...]:
    kinds: dict[tuple[str, str], set[str]] = {}
    for unit in units:
        kinds.setdefault((unit.tower, _type(unit)), set()).add(unit.name)
    return tuple(frozenset(names) for names in kinds.values())


def _type(unit: Unit) -> str:
    return f"{unit.type_name} {unit.kind}"
