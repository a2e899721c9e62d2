"""Growth by a plan: when and how far are given, and nothing is tried."""

from collections.abc import Mapping, Sequence
from math import isfinite
from numbers import Real
from typing import Any

from neuro_morph._arguments import check_kind, check_least, check_number
from neuro_morph._candidates import widening_of
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._graph import GrowthGraph
from neuro_morph._initial import UnitInit
from neuro_morph._morpher import Morpher
from neuro_morph._policy_checks import check_loss, number_of, take_up
from neuro_morph._step_watch import StepWatch, clear_gradients


class GrowthPlan:
    """Widens many groups at once at given parts of a run; called once after every optimizer step.

    It costs no training step: nothing is measured and nothing tried out, only the edits are
    checked as all are. After stage ``k`` of ``n`` a group of ``u`` units that is to have ``v`` in
    the end has ``u (v / u) ** (k / n)`` of them, rounded. Edits that are refused are noted in the
    run's events and left out; the rest is done. Groups of which only multiples are exact grow as
    soon as one fits, up to the largest within their size; ``left_out`` says why others stay.

    Args:
        morpher: the run, with its optimizers.
        sizes: how many times as many units every group that can grow has in the end; or for
            groups by their ids, how many units.
        at: the parts of the run after which it grows, in order.
        total_steps: how many steps the run will have; None if :meth:`step` is told the progress.
        init: how new units begin; None for the best that is exact.

    Raises:
        TypeError: if an argument is of another kind than it is to be.
        KeyError: if ``sizes`` names a group that is not there.
        ValueError: if a size is not above what is there or below the first one that is exact,
            ``at`` is empty, not in order or not in [0, 1), ``total_steps`` is below 1, or the run
            has a policy that is not closed.
        GrowthRefusedError: if ``sizes`` names a group that cannot grow.

    Example:
        >>> import torch
        >>> from neuro_morph import GrowthPlan, Morpher
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)
        ... )
        >>> optimizer, x = torch.optim.Adam(model.parameters()), torch.randn(16, 4)
        >>> morpher = Morpher(model, optimizer, example_inputs=x[:1])
        >>> plan = GrowthPlan(morpher, 2.0, at=[0.5], total_steps=4)
        >>> for _ in range(4):
        ...     optimizer.zero_grad()
        ...     loss = model(x).square().mean()
        ...     loss.backward()
        ...     optimizer.step()
        ...     event = plan.step(loss)  # None, or what has grown last
        >>> model[0].out_features
        16
    """

    def __init__(
        self,
        morpher: Morpher,
        sizes: float | Mapping[str, int] = 2.0,
        *,
        at: Sequence[float] = (0.02, 0.08),
        total_steps: int | None = None,
        init: UnitInit | None = None,
    ) -> None:
        check_kind(Morpher, morpher=morpher)
        if init is not None:
            check_kind(UnitInit, init=init)
        _check(at, total_steps)
        self.morpher, self.at, self.init = morpher, tuple(at), init
        self.total_steps = total_steps
        self.first = {group.id: group.size for group in morpher.graph if group.growable}
        self.last = _wanted(morpher.graph, self.first, sizes)
        self.left_out = _coarser(morpher.graph, self.first, self.last, sizes)
        self.taken = self.stage = 0
        self._watch = StepWatch(morpher.optimizers)
        take_up(morpher, self)

    def step(self, loss: Any = None, *, progress: float | None = None) -> MorphogenesisEvent | None:
        """Counts a training step; returns the last edit made after it, None if none was.

        Call it right after the optimizer's step. Gradients that the step has used are cleared
        where something grows; with gradients that wait for a step nothing grows yet.

        Args:
            loss: the step's loss, if it is told: after a step whose loss is not finite nothing
                grows yet.
            progress: the part of the run that is done, from 0 to 1; None to count steps.

        Raises:
            ValueError: if the progress is not from 0 to 1, or neither given nor to be known from
                ``total_steps``.
            TypeError: if the loss is no number.
        """
        if loss is not None:
            check_loss(loss)
        done = self._progress(progress)
        self.taken += 1
        self.morpher.steps += 1
        ready = self._watch.ready(self.morpher.model)
        due = sum(done >= part for part in self.at)
        if not ready or due <= self.stage:
            return None
        if loss is not None and not isfinite(number_of(loss)):
            return None
        self.stage = due
        return self._grow(f"planned at {self.at[due - 1]:.0%} of the run")

    def close(self) -> None:
        """Takes the plan off the optimizers."""
        self._watch.close()
        if self.morpher.policy is self:
            self.morpher.policy = None

    def _grow(self, reason: str) -> MorphogenesisEvent | None:
        clear_gradients(self.morpher.model)
        event = None
        for name in [name for name in self.last if name not in self.left_out]:
            event = self._widen(name, reason) or event
        return event

    def _widen(self, name: str, reason: str) -> MorphogenesisEvent | None:
        graph = self.morpher.graph
        group, part = graph[name], self.stage / len(self.at)
        by = round(self.first[name] * (self.last[name] / self.first[name]) ** part) - group.size
        edit = widening_of(graph, group, by, self.init) if by > 0 else None
        if edit is None or group.size + edit.by > self.last[name]:
            return None  # only whole multiples are exact there: at a later stage
        try:
            return self.morpher.apply(edit, reason=reason)
        except GrowthRefusedError:  # the morpher has noted it
            return None

    def _progress(self, given: float | None) -> float:
        if given is None:
            if self.total_steps is None:
                raise ValueError("progress must be given where total_steps is not, got None")
            return (self.taken + 1) / self.total_steps
        if not 0.0 <= given <= 1.0:
            raise ValueError(f"progress must be from 0 to 1, got {given!r}")
        return given


def _wanted(
    graph: GrowthGraph, first: dict[str, int], sizes: float | Mapping[str, int]
) -> dict[str, int]:
    if isinstance(sizes, Mapping):
        for name, size in sizes.items():
            check_least(0, sizes=size)
            if not graph[name].growable:
                raise GrowthRefusedError(f"{name!r} cannot grow: {graph[name].reason}")
            if size <= graph[name].size:
                raise ValueError(
                    f"sizes of {name!r} must be above the {graph[name].size} units that are "
                    f"there, got {size!r}"
                )
        return {name: int(size) for name, size in sizes.items()}
    check_number(sizes=sizes)
    if not sizes > 1.0:
        raise ValueError(f"sizes must be above 1, got {sizes!r}")
    return {name: round(sizes * size) for name, size in first.items()}


def _coarser(
    graph: GrowthGraph,
    first: dict[str, int],
    last: dict[str, int],
    sizes: float | Mapping[str, int],
) -> dict[str, str]:
    """Returns why groups stay as they are that are exact at whole multiples only, by their ids."""
    found = {}
    for name, size in last.items():
        ways = graph.ways(graph[name])
        if {"free", "copy"} & set(ways) or size // first[name] > 1:
            continue
        why = f"only multiples of its {first[name]} units are exact"
        if isinstance(sizes, Mapping):
            raise ValueError(f"sizes of {name!r} must be at least {2 * first[name]}: {why}")
        found[name] = why
    return found


def _check(at: Sequence[float], total_steps: int | None) -> None:
    if (
        not isinstance(at, Sequence)
        or not at
        or not all(isinstance(part, Real) for part in at)
        or list(at) != sorted(set(at))
        or not all(0.0 <= part < 1.0 for part in at)
    ):
        raise ValueError(f"at must be parts of the run in [0, 1), in order, got {at!r}")
    if total_steps is not None:
        check_least(1, total_steps=total_steps)
