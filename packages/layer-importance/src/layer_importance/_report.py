"""What an analysis found, as plain data that can be kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layer_importance import _csv, _html, _report_text
from layer_importance._atomic import write_atomically
from layer_importance._consensus import Consensus
from layer_importance._plan import CompressionPlan
from layer_importance._scores import MethodScores
from layer_importance._units import Unit, Units
from layer_importance._validity import Validity

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report:
    """Scores of all units by all methods that ran, and why the others did not.

    Attributes:
        units: the units, in order of execution.
        methods: scores by method.
        reasons: for every method that was considered, why it ran or did not.
        notes: what a reader must know: what was left out, skipped or replaced.
        samples: how many samples the sweep saw.
        batches: in how many batches.
        passes: forward and backward passes of the sweep, per batch.
        facts: seed, task, versions, machine and whatever else says how it came about.
        validity: every method held against measured damage, with depth and the noise ceiling.
        consensus: one score a unit, which methods it is of, and why; ``None`` if none claims a
            direction.
        bottom: the units of least damage as far as a race tells, with the probability that this is
            wrong; ``None`` if there was no race.
    """

    units: Units
    methods: Mapping[str, MethodScores]
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    samples: int = 0
    batches: int = 0
    passes: tuple[int, int] = (0, 0)
    facts: Mapping[str, Any] = field(default_factory=dict)
    validity: Validity = field(default_factory=Validity)
    consensus: Consensus | None = None
    bottom: Mapping[str, Any] | None = None

    def __getitem__(self, method: str) -> MethodScores:
        if method not in self.methods:
            why = self.reasons.get(method, "it was not asked for")
            raise KeyError(f"no scores of {method}: {why}; there are {', '.join(self.methods)}")
        return self.methods[method]

    def __str__(self) -> str:
        """Returns a table of at most 25 lines."""
        return _report_text.text(self)

    def __repr__(self) -> str:
        methods = ", ".join(self.methods) or "none"
        return f"Report({len(self.units)} units, {self.samples} samples, methods: {methods})"

    def ranking(self, method: str) -> list[str]:
        """Returns the names of the units a method scores, least important first."""
        scores = self[method]
        return sorted(scores, key=lambda name: scores[name].value)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON, with the number of its schema."""
        return {
            "schema": SCHEMA,
            "units": [{key: getattr(unit, key) for key in Unit.__slots__} for unit in self.units],
            "refused": dict(self.units.refused),
            "methods": {name: scores.to_dict() for name, scores in self.methods.items()},
            "reasons": dict(self.reasons),
            "notes": list(self.notes),
            "samples": self.samples,
            "batches": self.batches,
            "passes": list(self.passes),
            "facts": dict(self.facts),
            "validity": self.validity.to_dict(),
            "consensus": None if self.consensus is None else self.consensus.to_dict(),
            "bottom": None if self.bottom is None else dict(self.bottom),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Report":
        """Returns what :meth:`to_dict` was taken of.

        Raises:
            ValueError: if a field is missing or the schema is another.
        """
        if fields.get("schema") != SCHEMA:
            raise ValueError(f"field schema must be {SCHEMA}, got {fields.get('schema')!r}")
        try:
            units = tuple(Unit(**unit) for unit in fields["units"])
            methods = {n: MethodScores.from_dict(m) for n, m in fields["methods"].items()}
            agreed = fields["consensus"]
            rest = {key: fields[key] for key in ("reasons", "samples", "batches", "facts")}
            return cls(
                units=Units(units, fields["refused"]),
                methods=methods,
                notes=tuple(fields["notes"]),
                passes=tuple(fields["passes"]),
                validity=Validity.from_dict(fields["validity"]),
                consensus=None if agreed is None else Consensus.from_dict(agreed),
                bottom=fields["bottom"],
                **rest,
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"a report's field is missing or wrong: {error}") from error

    def save(self, path: str | Path) -> None:
        """Writes the report as JSON, whole or not at all."""
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        write_atomically(Path(path), text.encode())

    def to_csv(self) -> str:
        """Returns one line for each unit and method, under a line of names."""
        return _csv.rows(self)

    def to_html(
        self,
        *,
        plan: CompressionPlan | None = None,
        curve: Sequence[tuple[float, float]] | None = None,
        curve_of: str = "quality",
        title: str = "Layer importance",
    ) -> str:
        """Returns one page that loads nothing: scores, how far to trust them, and how they came.

        Args:
            plan: a plan of the same model, drawn with what it costs before and after.
            curve: numbers of units removed, with the quality measured for each.
            curve_of: what it was that was measured.
            title: of the page.
        """
        return _html.page(self, plan=plan, curve=curve, curve_of=curve_of, title=title)

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Returns the report in a file.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: naming file and field, if it holds something else.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text()))
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: {error}") from error
