"""What units cost: parameters, arithmetic, seconds, and what training keeps of them."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._batch import Call, inputs, without_cache
from layer_importance._flops import Flops
from layer_importance._forwards import replaced
from layer_importance._preserve import preserved
from layer_importance._units import Unit, Units

KINDS = ("parameters", "flops", "seconds", "activations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a model and each of its units cost on one batch.

    Attributes:
        totals: of the whole model: ``parameters`` (shared ones once), ``flops`` of a forward pass
            (a multiplication and an addition are two), its ``seconds`` (median), and
            ``activations``: bytes that a forward pass keeps for the backward pass, parameters not
            counted.
        units: the same by kind and name of the unit; NaN where a unit did not run.
        owned: number of parameters that the named units share and nothing else of the model has.
            They are freed when all of these units are gone.
        notes: what could not be measured: an operation whose arithmetic nobody can count makes
            ``flops`` NaN, of the model and of the units it runs in.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from layer_importance import discover
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
        ...                       for _ in range(2)])
        >>> x = torch.randn(5, 3)
        >>> costs = measure_costs(net, discover(net, x), x)
        >>> costs.totals["parameters"], costs.totals["flops"]
        (48.0, 360.0)
        >>> costs.freed("flops", ["0"])
        180.0
    """

    totals: Mapping[str, float]
    units: Mapping[str, Mapping[str, float]]
    owned: Mapping[frozenset[str], int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def freed(self, kind: str, names: Iterable[str]) -> float:
        """Returns what goes when the named units go.

        Raises:
            ValueError: if ``kind`` is none of :data:`KINDS`, or was not measured.
        """
        gone = frozenset(names)
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
        if kind not in self.totals:
            raise ValueError(f"kind must have been measured, and {kind} was not")
        if kind == "parameters":
            return float(sum(count for owners, count in self.owned.items() if owners <= gone))
        return float(sum(v for n in gone if math.isfinite(v := self.units[kind][n])))

    def without(self, names: Iterable[str]) -> dict[str, float]:
        """Returns what the model costs without the named units, by kind."""
        gone = list(names)
        return {kind: total - self.freed(kind, gone) for kind, total in self.totals.items()}

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON."""
        return {
            "totals": {k: None if math.isnan(v) else v for k, v in self.totals.items()},
            "units": {
                kind: {n: None if math.isnan(v) else v for n, v in values.items()}
                for kind, values in self.units.items()
            },
            "owned": [[sorted(owners), count] for owners, count in self.owned.items()],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Costs":
        """Returns what :meth:`to_dict` was taken of."""
        return cls(
            totals={k: math.nan if v is None else v for k, v in fields["totals"].items()},
            units={
                kind: {n: math.nan if v is None else v for n, v in values.items()}
                for kind, values in fields["units"].items()
            },
            owned={frozenset(owners): count for owners, count in fields["owned"]},
            notes=tuple(fields.get("notes", ())),
        )


def measure_costs(
    model: nn.Module,
    units: Units,
    example: Any,
    *,
    call: Call | None = None,
    kinds: Iterable[str] = KINDS,
    repeats: int = 7,
    clock: Callable[[], float] = time.perf_counter,
) -> Costs:
    """Returns what a model and its units cost for one batch; the model stays as it is.

    Seconds are medians over ``repeats`` forward passes, in each of which every unit is timed: what
    slows the machine down for a while slows all of them down. One pass warms up before.

    Args:
        model: any module.
        units: its units.
        example: one batch in the form the task reads, on the model's device.
        call: what to call the model with, if not what ``example`` says.
        kinds: which of :data:`KINDS` to measure.
        repeats: how many passes are timed.
        clock: what tells the time.

    Raises:
        ValueError: if ``repeats`` is below 1 or there is no such kind.
    """
    wanted = set(kinds)
    if unknown := wanted - set(KINDS):
        raise ValueError(f"kinds must be among {', '.join(KINDS)}, got {', '.join(unknown)}")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    call = without_cache(model, inputs(example) if call is None else call)
    owned, total = parameter_owners(model, units)
    totals: dict[str, float] = {"parameters": float(total)}
    notes: tuple[str, ...] = ()
    by_unit = {"parameters": {u.name: float(u.parameters) for u in units}}
    if "flops" in wanted:
        totals["flops"], by_unit["flops"], notes = _flops(model, units, call)
    if "seconds" in wanted:
        totals["seconds"], by_unit["seconds"] = _seconds(model, units, call, repeats, clock)
    if "activations" in wanted:
        totals["activations"], by_unit["activations"] = _activations(model, units, call)
    return Costs(totals=totals, units=by_unit, owned=owned, notes=notes)


def parameter_owners(model: nn.Module, units: Units) -> tuple[dict[frozenset[str], int], int]:
    """Returns how many parameters which units hold and nothing else does, and how many in all."""
    holders: dict[int, set[str]] = {}
    inside: dict[int, int] = {}
    for unit in units:
        for parameter in model.get_submodule(unit.path).parameters():
            holders.setdefault(id(parameter), set()).add(unit.name)
    paths = tuple(f"{unit.path}." for unit in units)
    elsewhere: set[int] = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        inside[id(parameter)] = parameter.numel()
        if not f"{name}.".startswith(paths):
            elsewhere.add(id(parameter))
    owned: dict[frozenset[str], int] = {}
    for key, names in holders.items():
        if key not in elsewhere:
            owned[frozenset(names)] = owned.get(frozenset(names), 0) + inside[key]
    return owned, sum(inside.values())


def _between(
    model: nn.Module,
    units: Units,
    call: Call,
    reading: Callable[[], float],
    found: dict[str, float],
) -> None:
    """One forward pass; ``found`` gets how far ``reading`` went within each unit's call."""
    by_path: dict[str, list[Unit]] = {}
    for unit in units:
        by_path.setdefault(unit.path, []).append(unit)
    calls: dict[str, int] = {}

    def wrap(path: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            number = calls[path] = calls.get(path, -1) + 1
            before = reading()
            output = original(*args, **kwargs)
            spent = reading() - before
            for unit in by_path[path]:
                if unit.call in (None, number):
                    found[unit.name] = found.get(unit.name, 0.0) + spent
            return output

        return forward

    with replaced(model, by_path, wrap):
        call.of(model)


def _all(units: Units, found: Mapping[str, float]) -> dict[str, float]:
    return {unit.name: found.get(unit.name, math.nan) for unit in units}


def _flops(
    model: nn.Module, units: Units, call: Call
) -> tuple[float, dict[str, float], tuple[str, ...]]:
    """Of the model and each unit, NaN where something cannot be counted, and what that is."""
    found: dict[str, float] = {}
    with preserved(model, gradients=False), Flops() as flops:
        _between(model, units, call, lambda: flops.total, found)
    if not flops.unknown:
        return flops.total, _all(units, found), ()
    blind: dict[str, float] = {}
    with preserved(model, gradients=False), Flops() as again:
        _between(model, units, call, lambda: again.unknowns, blind)
    known = {name: math.nan if blind[name] else value for name, value in found.items()}
    note = f"flops are not known: there is no formula for {', '.join(sorted(flops.unknown))}"
    return math.nan, _all(units, known), (note,)


def _seconds(
    model: nn.Module, units: Units, call: Call, repeats: int, clock: Callable[[], float]
) -> tuple[float, dict[str, float]]:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock()

    wholes, turns = [], []
    with preserved(model, gradients=False):
        call.of(model)
        for _ in range(repeats):
            found: dict[str, float] = {}
            start = now()
            _between(model, units, call, now, found)
            wholes.append(now() - start)
            turns.append(found)
    each = {n: statistics.median(turn[n] for turn in turns) for n in turns[0]}
    return statistics.median(wholes), _all(units, each)


def _activations(model: nn.Module, units: Units, call: Call) -> tuple[float, dict[str, float]]:
    found: dict[str, float] = {}
    kept: dict[Any, int] = {}
    weights = {p.untyped_storage()._cdata for p in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
            alive.append(storage)  # an address must not be given to another meanwhile
        return tensor

    alive: list[Any] = []
    with preserved(model, gradients=True):
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            _between(model, units, call, lambda: float(sum(kept.values())), found)
    return float(sum(kept.values())), _all(units, found)
