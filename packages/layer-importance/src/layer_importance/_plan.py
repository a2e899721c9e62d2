"""What is to be done to each unit of a model, what that achieves and what it costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from layer_importance import _plan_file
from layer_importance._bridge import Bridge
from layer_importance._paired import Interval

Do = Literal["keep", "drop", "drop_attention", "drop_mlp", "bridge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What happens to one unit.

    Attributes:
        unit: its name.
        do: ``keep``; ``drop``; ``drop_attention`` and ``drop_mlp`` for a block's branch;
            ``bridge``: a linear map stands in for it and for those ``over`` names.
        over: for a bridge, the units that it stands in for, this one first.
        score: what the unit's importance was taken to be; ``None`` if it was not known.
        reason: why, where it was not for the score.
    """

    unit: str
    do: Do
    over: tuple[str, ...] = ()
    score: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionPlan:
    """Actions on units, with what was asked for beside what is achieved.

    Attributes:
        actions: one for each unit, in order of execution.
        asked: the target: ``kind`` and ``value``.
        before: what the model costs: ``parameters``, ``units``, and ``flops`` and ``seconds`` of
            the first batch where they were measured.
        achieved: the same with the plan carried out, bridges counted; and ``ratio``, parameters
            before over parameters after.
        damage: loss with the plan minus loss without, on data that the search did not see.
        quality: the task's quality without the plan, on these data; ``None`` if it has none.
        quality_change: what the plan changes of it.
        from_the_end: damage on these data of dropping the last units instead.
        search_damage: damage on the data that the plan was chosen by, without bridges.
        evaluations: sets of units that were tried.
        forwards: passes over the searched half of the data, in whole models.
        oracle_gap: damage of the plan minus that of the best of all sets, both on the searched
            data; ``None`` where that was not asked for or there are more than 500.
        low_rank: by module that stays, the least rank that keeps 99 % of the weight's energy, where
            its factors are smaller than the weight: for a low-rank tool to carry out, it is not
            part of what is achieved.
        bridges: what stands in, by unit.
        notes: what else to know.
    """

    actions: tuple[Action, ...]
    asked: Mapping[str, Any]
    before: Mapping[str, float]
    achieved: Mapping[str, float]
    damage: Interval
    quality: float | None = None
    quality_change: Interval | None = None
    from_the_end: Interval | None = None
    search_damage: float | None = None
    evaluations: int = 0
    forwards: float = 0.0
    oracle_gap: float | None = None
    low_rank: Mapping[str, int] = field(default_factory=dict)
    bridges: Mapping[str, Bridge] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = ()

    @property
    def removals(self) -> list[str]:
        """Names of the units that go, bridged ones too: ``carry_out(model, plan)`` bridges them."""
        return [action.unit for action in self.actions if action.do != "keep"]

    @property
    def kept(self) -> list[str]:
        """Names of the units that stay."""
        return [action.unit for action in self.actions if action.do == "keep"]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for JSON, with the number of its schema; bridges as float64."""
        return _plan_file.to_dict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "CompressionPlan":
        """Returns what :meth:`to_dict` was taken of.

        Raises:
            ValueError: if a field is missing or wrong, or the schema is another.
        """
        return _plan_file.from_dict(fields)

    def save(self, path: str | Path) -> None:
        """Writes the plan as JSON, whole or not at all."""
        _plan_file.save(self, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> "CompressionPlan":
        """Returns the plan in a file.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: naming file and field, if it holds something else.
        """
        return _plan_file.load(Path(path))
