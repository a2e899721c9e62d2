"""Scores: a value with its error, its unit of measure and its direction."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from layer_importance._moments import Moments

Direction = Literal["importance", "diagnostic"]


@dataclass(frozen=True, slots=True)
class Score:
    """One method's answer about one unit.

    Attributes:
        value: the score as defined, neither clipped nor normalised.
        standard_error: of ``value`` over samples; NaN where it cannot be known, 0 if it is exact.
        samples: how many samples it rests on; 0 for what reads no data.
    """

    value: float
    standard_error: float = math.nan
    samples: int = 0

    @classmethod
    def of(cls, moments: Moments) -> "Score":
        """Returns the mean of scalar moments with its standard error."""
        return cls(float(moments.mean), float(moments.standard_error), moments.count)


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers for pairs, such as the similarity of every unit to every other.

    Attributes:
        rows: what each row is for, mostly a unit.
        columns: what each column is for.
        values: row by row; NaN where there is no number.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]

    def __getitem__(self, place: tuple[str, str]) -> float:
        row, column = place
        return self.values[self.rows.index(row)][self.columns.index(column)]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain lists, as JSON takes them (NaN as null)."""
        return {
            "rows": list(self.rows),
            "columns": list(self.columns),
            "values": [[_plain(value) for value in row] for row in self.values],
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Table":
        """Returns what :meth:`to_dict` was taken of."""
        values = tuple(tuple(_number(value) for value in row) for row in fields["values"])
        return cls(tuple(fields["rows"]), tuple(fields["columns"]), values)


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodScores(Mapping[str, Score]):
    """What one method says about all units.

    Attributes:
        method: name of the method.
        measure: unit of measure of the values, such as ``nats`` or ``1`` for a pure number.
        direction: ``importance``: more means more important; ``diagnostic``: says something about
            the unit but not whether it can go.
        scores: by name of the unit; units that the method cannot score are absent.
        extras: further columns of the method, by name, then by unit.
        tables: what the method says about pairs of units, by name.
        missing: units without a score, with the reason.
        notes: what to know about single units' scores, such as what stood in for them.
        seconds: how long it took, alone or as its share of the common sweep.
        forwards: how many forward passes over a batch it needed, in whole models.
        backwards: how many backward passes.
        shared: whether these passes were those of the common sweep.
    """

    method: str
    measure: str
    direction: Direction
    scores: Mapping[str, Score]
    extras: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    seconds: float = math.nan
    forwards: float = 0.0
    backwards: float = 0.0
    shared: bool = False

    def __getitem__(self, name: str) -> Score:
        return self.scores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def values_of(self, names: list[str]) -> list[float]:
        """Returns the values in the order of ``names``; NaN where there is none."""
        return [self.scores[n].value if n in self.scores else math.nan for n in names]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain numbers, strings and dictionaries, as JSON takes them (NaN as null)."""
        return {
            "method": self.method,
            "measure": self.measure,
            "direction": self.direction,
            "scores": {
                name: {
                    "value": _plain(score.value),
                    "standard_error": _plain(score.standard_error),
                    "samples": score.samples,
                }
                for name, score in self.scores.items()
            },
            "extras": {
                column: {name: _plain(value) for name, value in values.items()}
                for column, values in self.extras.items()
            },
            "tables": {name: table.to_dict() for name, table in self.tables.items()},
            "missing": dict(self.missing),
            "notes": dict(self.notes),
            "seconds": _plain(self.seconds),
            "forwards": self.forwards,
            "backwards": self.backwards,
            "shared": self.shared,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "MethodScores":
        """Returns what :meth:`to_dict` was taken of."""
        scores = {
            name: Score(_number(s["value"]), _number(s["standard_error"]), int(s["samples"]))
            for name, s in fields["scores"].items()
        }
        extras = {
            column: {name: _number(value) for name, value in values.items()}
            for column, values in fields["extras"].items()
        }
        tables = {name: Table.from_dict(table) for name, table in fields["tables"].items()}
        plain = ("method", "measure", "direction", "missing", "notes", "shared")
        rest = {key: fields[key] for key in plain}
        return cls(
            scores=scores,
            extras=extras,
            tables=tables,
            seconds=_number(fields["seconds"]),
            forwards=float(fields["forwards"]),
            backwards=float(fields["backwards"]),
            **rest,
        )


def _plain(value: float) -> float | str | None:
    """JSON has no NaN and no infinity."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def _number(value: float | str | None) -> float:
    return math.nan if value is None else float(value)
