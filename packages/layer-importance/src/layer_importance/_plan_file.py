"""Plans as JSON."""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layer_importance._atomic import write_atomically
from layer_importance._bridge import Bridge
from layer_importance._paired import Interval

if TYPE_CHECKING:
    from layer_importance._plan import CompressionPlan

SCHEMA = 1
_PLAIN = ("evaluations", "forwards", "oracle_gap", "quality", "search_damage")
_MAPPINGS = ("asked", "before", "achieved", "low_rank")
_INTERVALS = ("damage", "quality_change", "from_the_end")
_FLOATS = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16}
_FLOATS["bfloat16"] = torch.bfloat16


def to_dict(plan: "CompressionPlan") -> dict[str, Any]:
    """Returns plain data for JSON."""
    return {
        "schema": SCHEMA,
        "actions": [{**asdict(action), "over": list(action.over)} for action in plan.actions],
        **{name: _number(getattr(plan, name)) for name in _PLAIN},
        **{name: dict(getattr(plan, name)) for name in _MAPPINGS},
        **{name: _interval(getattr(plan, name)) for name in _INTERVALS},
        "bridges": {name: _bridge(bridge) for name, bridge in plan.bridges.items()},
        "notes": list(plan.notes),
    }


def from_dict(fields: Mapping[str, Any]) -> "CompressionPlan":
    """Returns the plan that the data is of.

    Raises:
        ValueError: if a field is missing or wrong, or the schema is another.
    """
    from layer_importance._plan import Action, CompressionPlan

    if fields.get("schema") != SCHEMA:
        raise ValueError(f"field schema must be {SCHEMA}, got {fields.get('schema')!r}")
    try:
        actions = tuple(Action(**{**a, "over": tuple(a["over"])}) for a in fields["actions"])
        intervals = {name: _interval_of(fields[name]) for name in _INTERVALS}
        if intervals["damage"] is None:
            raise ValueError("field damage must be an interval, got null")
        return CompressionPlan(
            actions=actions,
            **{name: _float(fields[name]) for name in _PLAIN},
            **{name: fields[name] for name in _MAPPINGS},
            **intervals,  # type: ignore[arg-type]
            bridges={name: _bridge_of(one) for name, one in fields["bridges"].items()},
            notes=tuple(fields["notes"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"a plan's field is missing or wrong: {error}") from error


def save(plan: "CompressionPlan", path: Path) -> None:
    """Writes a plan, whole or not at all."""
    write_atomically(path, json.dumps(to_dict(plan), indent=1, allow_nan=False).encode())


def load(path: Path) -> "CompressionPlan":
    """Returns the plan in a file.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming file and field, if it holds something else.
    """
    try:
        return from_dict(json.loads(path.read_text()))
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def _interval(found: Interval | None) -> dict[str, Any] | None:
    return None if found is None else {name: _number(v) for name, v in asdict(found).items()}


def _interval_of(fields: Mapping[str, Any] | None) -> Interval | None:
    if fields is None:
        return None
    return Interval(**{name: _float(value) for name, value in fields.items()})


def _number(value: float | None) -> float | str | None:
    """JSON has no infinity; a plan has no NaN but where nothing could be measured."""
    if value is None or math.isfinite(value):
        return value
    return str(value)


def _float(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _bridge(bridge: Bridge) -> dict[str, Any]:
    return {
        "channels": bridge.channels,
        "dtype": str(bridge.weight.dtype).removeprefix("torch."),
        **{name: _array(getattr(bridge, name)) for name in ("weight", "bias", "mean")},
    }


def _bridge_of(fields: Mapping[str, Any]) -> Bridge:
    if fields["dtype"] not in _FLOATS:
        raise ValueError(f"field dtype must be one of {', '.join(_FLOATS)}")
    bias, mean = (_tensor(fields[name]) for name in ("bias", "mean"))
    weight = _tensor(fields["weight"]).reshape(len(bias), -1)
    return Bridge(weight, bias, mean, channels=fields["channels"]).to(_FLOATS[fields["dtype"]])


def _array(tensor: Tensor) -> str:
    values = tensor.detach().to("cpu", torch.float64).contiguous().numpy()
    return base64.b64encode(values.astype("<f8").tobytes()).decode()


def _tensor(text: str) -> Tensor:
    values = np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8")
    return torch.from_numpy(values.astype(np.float64))
