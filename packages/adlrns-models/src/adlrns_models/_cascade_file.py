"""Cascades as files."""

import hashlib
import json
import math
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adlrns_models._atomic import write_atomically
from adlrns_models._elastic import ElasticModel
from adlrns_models._files import field
from rank_sched import CascadeFrontier, CascadeRule, OperatingPoint

if TYPE_CHECKING:
    from adlrns_models._cascade import RankCascade

NAME = "cascade.json"
FORMAT = 1
_INFINITE = ("inf", "-inf")


def save_cascade(cascade: "RankCascade", directory: str | PathLike[str]) -> None:
    """Writes ``directory/cascade.json``."""
    body = {
        "format": FORMAT,
        "kind": "cascade",
        "points": [
            {"ranks": dict(p.ranks), "loss": p.loss, "cost": p.cost} for p in cascade.points
        ],
        "quality": list(cascade.quality),
        "rules": [
            [r.first, r.second, _written(r.threshold), r.cost, r.quality] for r in cascade.rules
        ],
    }
    text = json.dumps({**body, "sha256": _digest(body)}, allow_nan=False, indent=1)
    write_atomically(Path(directory) / NAME, text.encode())


def load_cascade(
    directory: str | PathLike[str], elastic: ElasticModel
) -> tuple[list[OperatingPoint], list[float], CascadeFrontier]:
    """Returns the points, their quality and the rules of the file, checked against the model."""
    path = Path(directory) / NAME
    body = _read(path)
    points = [_point(path, entry, elastic) for entry in field(path, body, "points", list)]
    rules = [_rule(path, entry, len(points)) for entry in field(path, body, "rules", list)]
    if not rules:
        raise ValueError(f"{path}: field rules must hold at least one rule, got none")
    quality = field(path, body, "quality", list)
    if len(quality) != len(points):
        raise ValueError(f"{path}: field quality must have {len(points)} numbers, got {quality}")
    return points, quality, CascadeFrontier(rules)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        body = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(body, dict) or body.get("kind") != "cascade":
        raise ValueError(f"{path}: field kind must be 'cascade': a foreign file")
    number = field(path, body, "format", int)
    if not 1 <= number <= FORMAT:
        raise ValueError(f"{path}: field format must be in 1..{FORMAT}, got {number}")
    if body.pop("sha256", None) != _digest(body):
        raise ValueError(f"{path}: field sha256 does not match what the file holds: it is damaged")
    return body


def _point(path: Path, entry: dict[str, Any], elastic: ElasticModel) -> OperatingPoint:
    ranks, layers = entry["ranks"], elastic.layers()
    for name, rank in ranks.items():
        if name not in layers or not 0 <= rank <= layers[name].max_rank:
            raise ValueError(
                f"{path}: field points: the model has no layer {name!r} of rank {rank}"
            )
    return OperatingPoint(ranks, entry["loss"], entry["cost"])


def _rule(path: Path, entry: list[Any], points: int) -> CascadeRule:
    first, second, threshold, cost, quality = entry
    if not (0 <= first < points and 0 <= second < points):
        raise ValueError(f"{path}: field rules: points must be in 0..{points - 1}, got {entry}")
    return CascadeRule(first, second, _read_threshold(path, threshold), cost, quality)


def _written(threshold: float) -> float | str:
    """Returns a threshold as JSON has it, which knows no infinity."""
    return str(threshold) if math.isinf(threshold) else threshold


def _read_threshold(path: Path, value: object) -> float:
    if value is None or value in _INFINITE:
        return float(str(value or "-inf"))
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise ValueError(
            f"{path}: field rules: a threshold must be a number, null or one of {_INFINITE}, "
            f"got {value!r}"
        )
    return float(value)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
