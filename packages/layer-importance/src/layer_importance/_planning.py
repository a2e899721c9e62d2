"""The way from a target to a plan: a cheap order, a search, bridges, a judgement on other data."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from layer_importance._analyze import prepared
from layer_importance._consensus import consensus, estimated_damage
from layer_importance._costs import Costs, measure_costs
from layer_importance._edits import Edit
from layer_importance._low_rank import low_ranks
from layer_importance._modality import Modality
from layer_importance._moments import Moments
from layer_importance._paired import Interval, t_interval
from layer_importance._plan import Action, CompressionPlan, Do
from layer_importance._plan_bridges import Bridged, edits, fitted, paying
from layer_importance._plan_damage import Judge, halves
from layer_importance._plan_search import Found, Search, oracle as find_oracle
from layer_importance._plan_space import Names, Space
from layer_importance._plan_target import Target, space, target
from layer_importance._preserve import preserved
from layer_importance._report import Report
from layer_importance._subject import Subject
from layer_importance._task import Task
from layer_importance._units import Units


def plan(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    report: Report | None = None,
    task: str | Task = "classification",
    target_ratio: float | None = None,
    params: float | None = None,
    flops: float | None = None,
    latency_s: float | None = None,
    units: int | None = None,
    among: Units | None = None,
    keep: Sequence[str] = (),
    keep_types: bool = True,
    keep_ends: tuple[int, int] = (0, 0),
    tied: Sequence[Sequence[str]] = (),
    bridges: bool = True,
    method: str = "auto",
    evaluations: int | None = None,
    oracle: bool = False,
    low_rank: bool = False,
    modality: str | Modality | None = "auto",
    max_batches: int | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: Callable[[str, int], None] | None = None,
) -> CompressionPlan:
    """Returns which units of a model to take out so that a target is met at the least damage.

    Exactly one target says what the model may cost afterwards. The search starts from the scores of
    ``report``, where it is given, leaves units out one by one, and goes on to sets of them, each
    measured as ``E[l(without the set) - l]`` on every other batch; the last units of the model are
    always a candidate. The other batches judge: damage and its confidence interval are theirs, and
    if dropping from the end does better there, that is the plan. A linear bridge, fitted in closed
    form, stands in where it lowers the loss on these batches for sure and the target is still met.

    The model is bit for bit as it was afterwards. The batches used are kept in memory meanwhile.

    Args:
        model: any module.
        batches: any iterable of batches, in the form the task reads, in random order.
        report: an analysis of the model, whose units are used.
        task: a task or its name.
        target_ratio: parameters of the whole model before, over those afterwards, at least: with
            2.5, at most 40 % of the parameters stay. Embeddings and heads count too, and cannot go.
        params: at most so many parameters afterwards.
        flops: at most so many floating point operations for a forward pass of the first batch.
        latency_s: at most so many seconds for it, as predicted from the units' measured seconds.
        units: at most so many units stay.
        among: the units to choose from; those of the report, else found. Those of
            :func:`discover_parts` take attention and MLP out one by one.
        keep: names of units that must stay.
        keep_types: keep at least one unit of each class in each tower.
        keep_ends: how many of the first and of the last units of each tower must stay.
        tied: groups of units that go together or not at all.
        bridges: try linear bridges.
        method: whose scores the search starts from: ``auto`` weighs the methods of the report
            against each other.
        evaluations: how many sets to try at most; if not given, 70, or 10 more than there are units
            where these are many. 0: the scores alone decide.
        oracle: also try all sets where they are no more than 500, to know what the search missed.
        low_rank: also say which weights that stay are almost of low rank.
        modality: what kind of data it is: one or its name; ``auto`` looks at the first batch.
        max_batches: use at most so many batches.
        confidence: of intervals.
        seed: of everything drawn at random.
        progress: told what is done.

    Raises:
        ValueError: if there is not exactly one target, it cannot be reached, a name is no unit,
            the batches have no labels, or the data or the loss are not finite.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        ...     def forward(self, x):
        ...         return x + self.down(torch.relu(self.up(x)))
        >>> net = nn.Sequential(*[Block() for _ in range(4)], nn.Linear(8, 3))
        >>> _ = net[2].down.weight.data.zero_(), net[2].down.bias.data.zero_()
        >>> inputs = [torch.randn(16, 8) for _ in range(4)]
        >>> data = [(x, net(x).softmax(1).detach()) for x in inputs]
        >>> found = plan(net, data, units=3)
        >>> found.removals, found.damage.mean
        (['2'], 0.0)
    """
    among = report.units if among is None and report is not None else among
    model, subject, _ = prepared(model, batches, task, among, max_batches, seed, modality)
    if not subject.has_labels:
        raise ValueError("batches must have labels, damage is a loss; got none")
    costs = _costs(subject, flops, latency_s)
    wanted = target(
        costs,
        subject.units,
        target_ratio=target_ratio,
        params=params,
        flops=flops,
        latency_s=latency_s,
        keep_units=units,
    )
    sets, reasons = space(
        subject.units,
        costs,
        wanted,
        keep=keep,
        keep_types=keep_types,
        keep_ends=keep_ends,
        tied=tied,
    )
    prior, why = _prior(subject.units, report, method)
    budget = max(70, len(sets.groups) + 10) if evaluations is None else evaluations
    work = _Work(subject, costs, wanted, sets, confidence, progress or (lambda what, done: None))
    with preserved(model, gradients=False):
        found = work.run(prior, reasons, why, budget, bridges=bridges, oracle=oracle)
    if not low_rank:
        return found
    return replace(found, low_rank=low_ranks(subject, found.removals))


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
class _Work:
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
    ) -> CompressionPlan:
        searched, judged, note = halves(self.subject)
        with Judge(self.subject, searched) as judge:
            found = Search(self.sets, self._told(judge), prior, budget).run()
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
        notes = [note, why, f"search: {found.note}", *result.notes]
        return CompressionPlan(
            actions=self._actions(result, prior, reasons),
            asked=self.wanted.asked,
            before={**self.costs.totals, "units": float(len(self.subject.units))},
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
        found = self.costs.without(names)
        found["parameters"] += sum(one.parameters for one in bridged)
        flops = sum(one.flops for one in bridged)
        if "seconds" in found and self.costs.totals.get("flops"):
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


def _mean(moments: Moments) -> float:
    return float(moments.mean) if moments.count and not moments.skipped else float("inf")


def _costs(subject: Subject, flops: float | None, latency_s: float | None) -> Costs:
    kinds = ["parameters"]
    if flops is not None or latency_s is not None:
        kinds += ["flops"]
    if latency_s is not None:
        kinds += ["seconds"]
    call = subject.call(subject.first)
    return measure_costs(subject.model, subject.units, subject.first, call=call, kinds=kinds)


def _prior(units: Units, report: Report | None, method: str) -> tuple[dict[str, float], str]:
    """What single units are worth beforehand, and where that is from."""
    order = {name: float(-place) for place, name in enumerate(units.names)}
    if report is None:
        if method != "auto":
            raise ValueError(f"method must be 'auto' without a report, got {method!r}")
        return order, "order: no report, the search begins from the end"
    if method != "auto":
        scores = report[method]
        if scores.direction != "importance":
            raise ValueError(f"method must claim a direction, and {method} is a diagnostic")
        return {n: s.value for n, s in scores.items()}, f"order: {method}, asked for"
    known = {name: s for name, s in report.methods.items() if set(s) & set(units.names)}
    if not any(s.direction == "importance" and len(s) for s in known.values()):
        return order, "order: the report scores none of the units, the search begins from the end"
    reliability = {n: v.reliability for n, v in report.validity.methods.items()}
    found = consensus(known, units.names, reliability)
    return estimated_damage(known, found), f"order: {found.why}"
