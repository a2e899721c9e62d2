"""Searching on one half of the data, judging on the other: a target becomes a plan."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from layer_importance._costs import Costs
from layer_importance._edits import Edit
from layer_importance._moments import Moments
from layer_importance._paired import Interval, t_interval
from layer_importance._plan import Action, CompressionPlan, Do
from layer_importance._plan_bridges import Bridged, edits, fitted, paying
from layer_importance._plan_damage import Judge, halves
from layer_importance._plan_search import Found, oracle as find_oracle
from layer_importance._plan_space import Names, Space
from layer_importance._plan_target import Target
from layer_importance._planner import Planner, search
from layer_importance._subject import Subject


@dataclass(slots=True)
class _Judged:
    """A set with its bridges on the data that judge."""

    names: Names
    bridged: list[Bridged]
    damage: Interval
    end: Interval
    quality: float | None
    quality_change: Interval | None
    notes: list[str]


@dataclass(slots=True)
class Work:
    """One search for a plan, and the judgement of what it found."""

    subject: Subject
    costs: Costs
    wanted: Target
    sets: Space
    confidence: float
    progress: Callable[[str, int], None]

    def run(
        self,
        prior: Mapping[str, float],
        reasons: Mapping[str, str],
        why: str,
        budget: int,
        *,
        bridges: bool,
        oracle: bool,
        planner: Planner | None = None,
    ) -> CompressionPlan:
        """Returns the best set that was found, with the bridges that pay, as a plan."""
        searched, judged, note = halves(self.subject)
        with Judge(self.subject, searched) as judge:
            found = search(planner, self.sets, self._told(judge), prior, budget)
            forwards = judge.forwards
            best = find_oracle(self.sets, self._told(judge)) if oracle else None
            offered = {
                names: fitted(judge, names) if bridges else ([], [])
                for names in {found.best, found.from_the_end}
            }
        with Judge(self.subject, judged) as judge:
            result = self._judged(judge, found, offered)
        gap = None
        if best is not None and result.names in found.seen:
            gap = found.seen[result.names] - best[1]
        told = [*result.notes, _bridges_note(result.bridged), *self.costs.notes]
        notes = [note, why, f"search: {found.note}", *told]
        return CompressionPlan(
            actions=self._actions(result, prior, reasons),
            asked=self.wanted.asked,
            before={**_known(self.costs.totals), "units": float(len(self.subject.units))},
            achieved=self._achieved(result.names, result.bridged),
            damage=result.damage,
            quality=result.quality,
            quality_change=result.quality_change,
            from_the_end=result.end,
            search_damage=found.seen.get(result.names),
            evaluations=len(found.seen),
            forwards=forwards,
            oracle_gap=gap,
            bridges={one.span[0]: one.bridge for one in result.bridged},
            notes=tuple(n for n in notes if n),
        )

    def _told(self, judge: Judge) -> Callable[[Sequence[Names]], Sequence[float]]:
        done = 0

        def damages(sets: Sequence[Names]) -> Sequence[float]:
            nonlocal done
            found = judge.damages(sets)
            done += len(sets)
            self.progress("search", done)
            return found

        return damages

    def _judged(
        self,
        judge: Judge,
        found: Found,
        offered: Mapping[Names, tuple[list[Bridged], list[str]]],
    ) -> _Judged:
        notes: list[str] = []
        names, end = found.best, found.from_the_end
        gone, last = judge.differences([judge.without(names), judge.without(end)])
        if _mean(last) < _mean(gone):
            notes.append("dropping from the end does better on the data that judge: taken")
            names = end
        bridges, refused = offered[names]
        kept, unpaid = paying(
            judge,
            names,
            bridges,
            affordable=lambda some: self._affordable(names, some),
            confidence=self.confidence,
        )
        edited = edits(judge, names, kept)
        (damage,) = judge.differences([edited])
        quality, change = self._quality(judge, edited)
        return _Judged(
            names,
            kept,
            self._interval(damage),
            self._interval(last),
            quality,
            change,
            [*notes, *refused, *unpaid],
        )

    def _quality(
        self, judge: Judge, edited: Mapping[str, Edit]
    ) -> tuple[float | None, Interval | None]:
        found = judge.quality(edited)
        if found is None or not (found[0].count and found[1].count):
            return None, None
        return float(found[0].mean), t_interval(found[1], confidence=self.confidence)

    def _interval(self, moments: Moments) -> Interval:
        if not moments.count or moments.skipped:
            nowhere = float("inf")
            return Interval(nowhere, -nowhere, nowhere, self.confidence)
        return t_interval(moments, confidence=self.confidence)

    def _affordable(self, names: Names, bridged: Sequence[Bridged]) -> bool:
        if self.wanted.kind == "units":
            return True
        cost = self._achieved(names, bridged)
        return cost[self.wanted.kind] <= self.wanted.most * (1 + 1e-9)

    def _achieved(self, names: Names, bridged: Sequence[Bridged]) -> dict[str, float]:
        found = _known(self.costs.without(names))
        found["parameters"] += sum(one.parameters for one in bridged)
        flops = sum(one.flops for one in bridged)
        if "seconds" in found and self.costs.totals.get("flops", 0.0) > 0:
            # a matrix product is no slower, per operation, than the rest of the model
            found["seconds"] += flops * self.costs.totals["seconds"] / self.costs.totals["flops"]
        if "flops" in found:
            found["flops"] += flops
        found["units"] = float(len(self.subject.units) - len(names))
        found["ratio"] = self.costs.totals["parameters"] / max(found["parameters"], 1.0)
        return found

    def _actions(
        self, result: _Judged, prior: Mapping[str, float], reasons: Mapping[str, str]
    ) -> tuple[Action, ...]:
        spans = {one.span[0]: one.span for one in result.bridged}
        inside = {name: span[0] for span in spans.values() for name in span[1:]}
        found = []
        for unit in self.subject.units:
            do: Do = "keep"
            if unit.name in spans:
                do = "bridge"
            elif unit.name in result.names:
                do = _drop(unit.kind)
            reason = reasons.get(unit.name, "") if do == "keep" else ""
            reason = f"the bridge of {inside[unit.name]}" if unit.name in inside else reason
            found.append(
                Action(
                    unit=unit.name,
                    do=do,
                    over=spans.get(unit.name, ()),
                    score=prior.get(unit.name),
                    reason=reason,
                )
            )
        return tuple(found)


def _drop(kind: str) -> Do:
    named: dict[str, Do] = {"attention": "drop_attention", "mlp": "drop_mlp"}
    return named.get(kind, "drop")


def _bridges_note(bridged: Sequence[Bridged]) -> str:
    if not bridged:
        return ""
    names = ", ".join(one.span[0] for one in bridged)
    return (
        f"the damage is that with bridges at {names}: carry_out(model, plan) puts them in, "
        "plan.removals alone is another model"
    )


def _mean(moments: Moments) -> float:
    return float(moments.mean) if moments.count and not moments.skipped else float("inf")


def _known(costs: Mapping[str, float]) -> dict[str, float]:
    """Costs that could be counted."""
    return {kind: value for kind, value in costs.items() if not math.isnan(value)}
