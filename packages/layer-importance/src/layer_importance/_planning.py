"""The way from a target to a plan: a cheap order, a search, bridges, a judgement on other data."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from layer_importance._analyze import prepared
from layer_importance._batch import to_device
from layer_importance._consensus import consensus
from layer_importance._costs import Costs, measure_costs
from layer_importance._discover import discover
from layer_importance._estimated_damage import estimated_damage
from layer_importance._example import called
from layer_importance._low_rank import low_ranks
from layer_importance._modality import Modality
from layer_importance._plan import CompressionPlan
from layer_importance._plan_checks import check_reachable, check_report, check_words, most_freed
from layer_importance._plan_target import Target, space, target
from layer_importance._plan_work import Work
from layer_importance._planner import Planner, planner_of
from layer_importance._preserve import preserved
from layer_importance._ranker import shipped
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
    ratio_of: str = "parameters",
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
    planner: str | Planner = "auto",
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
        target_ratio: of the model before over the model afterwards, at least; of what, ``ratio_of``
            says.
        ratio_of: ``parameters`` of the whole model: with 2.5, at most 40 % of them stay, embeddings
            and heads counted, which cannot go. Or ``layers``, the number of units: with 2.5, 4 of
            10 stay, as :class:`UniversalLayerwiseAdapter` means it.
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
        planner: who searches: ``auto`` is the search described above; else a function, or the name
            of one that another package offers: see :mod:`layer_importance.plugins`.
        low_rank: also say which weights that stay are almost of low rank.
        modality: what kind of data it is: one or its name; ``auto`` looks at the first batch.
        max_batches: use at most so many batches.
        confidence: of intervals.
        seed: of everything drawn at random.
        progress: told what is done.

    Raises:
        ValueError: if there is not exactly one target, it cannot be reached, a name is no unit or
            method, the report is of another model, a number or a list is of the wrong kind, the
            batches have no labels, or the data or the loss are not finite.

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
    check_words(units, evaluations, keep, tied)
    chosen = planner_of(planner)
    if report is not None:
        check_report(getattr(model, "_orig_mod", model), report.units)
    among = report.units if among is None and report is not None else among
    model, subject, _ = prepared(model, batches, task, among, max_batches, seed, modality)
    if not subject.has_labels:
        raise ValueError("batches must have labels, damage is a loss; got none")
    costs = _costs(subject, flops, latency_s)
    wanted = target(
        costs,
        subject.units,
        target_ratio=target_ratio,
        ratio_of=ratio_of,
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
    check_reachable(sets, wanted, costs, subject.units)
    prior, why = _prior(subject.units, report, method)
    budget = max(70, len(sets.groups) + 10) if evaluations is None else evaluations
    work = Work(subject, costs, wanted, sets, confidence, progress or (lambda what, done: None))
    with preserved(model, gradients=False):
        found = work.run(
            prior, reasons, why, budget, bridges=bridges, oracle=oracle, planner=chosen
        )
    if not low_rank:
        return found
    return replace(found, low_rank=low_ranks(subject, found.removals))


def largest_ratio(
    model: nn.Module, example: Any, *, task: str | Task = "classification", keep_types: bool = True
) -> float:
    """Returns the largest ``target_ratio`` that :func:`plan` can meet, without running a search.

    Args:
        model: any module.
        example: one batch in the form the task reads.
        task: a task or its name.
        keep_types: keep at least one unit of each class in each tower.

    Raises:
        ValueError: if no unit may go.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    example = to_device(example, device)
    call = called(model, example, task, None)
    units = discover(model, example, call=call)
    costs = measure_costs(model, units, example, call=call, kinds=["parameters"])
    total = costs.totals["parameters"]
    wanted = Target(kind="parameters", most=total, asked={})
    sets, _ = space(units, costs, wanted, keep=(), keep_types=keep_types, keep_ends=(0, 0), tied=())
    return total / max(total - sets.gain(most_freed(sets)), 1.0)


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
        if method not in report.methods:
            names = ", ".join(["auto", *report.methods])
            raise ValueError(f"method must be one of {names}, got {method!r}")
        scores = report[method]
        if scores.direction != "importance":
            raise ValueError(f"method must claim a direction, and {method} is a diagnostic")
        return {n: s.value for n, s in scores.items()}, f"order: {method}, asked for"
    known = {name: s for name, s in report.methods.items() if set(s) & set(units.names)}
    if not any(s.direction == "importance" and len(s) for s in known.values()):
        return order, "order: the report scores none of the units, the search begins from the end"
    reliability = {n: v.reliability for n, v in report.validity.methods.items()}
    shares = {unit.name: float(unit.parameters) for unit in units}
    found = consensus(known, units.names, reliability, shares=shares, ranker=shipped())
    return estimated_damage(known, found), f"order: {found.why}"
