"""How much of what the input does to the loss goes through a unit's branch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from layer_importance._batch import size
from layer_importance._differences import Differences
from layer_importance._edits import branch, passes_on
from layer_importance._method import PassMethod
from layer_importance._quadrature import gauss_legendre
from layer_importance._replay import Replay
from layer_importance._scores import MethodScores, Score
from layer_importance._streams import as_given, derangement, donated, known_entries, samples_first
from layer_importance._subject import Subject
from layer_importance._units import Unit

Baseline = Literal["resample", "zero"]


class Conductance(PassMethod):
    """``- int <dL/df, df/da> da`` along a straight path of what goes into the first unit.

    The path leads from a baseline (``a = 0``) to the stream of the sample (``a = 1``), ``f`` is the
    branch of a unit on the way: what flows through it of the drop of the loss from the baseline to
    the sample, ``total``. ``passed_on`` is what flows past the branch, by the unit's input, and
    ``gap`` is ``total - value - passed_on``: 0 for every unit that all flow goes through, as in a
    chain, up to the error of the quadrature (Gauss and Legendre's, with the derivative of the
    polynomial through its points; a kink on the path costs accuracy). 0 for a dead branch.

    Holds ``points`` runs of one batch at a time.

    Args:
        baseline: another sample of the batch, or zeros.
        points: nodes of the quadrature, at least 2.

    Source: Dhamdhere et al., arXiv 1805.12233, definition 1; for the branch of a unit.
    """

    name = "conductance"
    shares = True
    measure = "nats"
    needs = frozenset({"data", "labels", "gradients"})

    def __init__(self, *, baseline: Baseline = "resample", points: int = 8) -> None:
        if baseline not in get_args(Baseline):
            known = ", ".join(get_args(Baseline))
            raise ValueError(f"baseline must be one of {known}, got {baseline!r}")
        if points < 2:
            raise ValueError(f"points must be at least 2, got {points}")
        self.baseline, self.points = baseline, points

    def passes(self, units: int) -> tuple[float, float]:
        """The ends of the path, and a run with gradients at each point."""
        del units
        return 2.0 + self.points, float(self.points)

    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """Follows the path of every batch."""
        parts = {part: Differences() for part in ("value", "passed_on", "total", "gap")}
        refused = parts["value"].refused
        for done, batch in enumerate(subject.batches(), 1):
            found = self._flow(subject, batch, subject.drawn(subject.index))
            if found is None:
                why = "the stream of the first unit has no baseline in any batch"
                refused.update({unit.name: why for unit in subject.units})
            else:
                for unit in subject.units:
                    self._take(parts, subject, unit, batch, found)
            progress(self.name, done)
        return self._result(subject, {n: p.gathered(subject.share) for n, p in parts.items()})

    def _take(
        self,
        parts: dict[str, Differences],
        subject: Subject,
        unit: Unit,
        batch: Any,
        flow: "tuple[dict[str, _Path], Tensor]",
    ) -> None:
        """Adds what one unit conducts in one batch, or why that is unknown."""
        paths, total = flow
        found = paths[unit.name].conducted(subject, unit, batch)
        if isinstance(found, str):
            parts["value"].refused[unit.name] = found
            return
        through, past = found
        columns = (through, past, total, total - through - past)
        for part, values in zip(parts.values(), columns, strict=True):
            part.add(unit, values)

    def _flow(
        self, subject: Subject, batch: Any, generator: torch.Generator
    ) -> "tuple[dict[str, _Path], Tensor] | None":
        first = subject.units[0]
        with Replay(subject, batch) as whole:
            end = whole.losses
            start = self._start(whole, first, generator)
        if start is None:
            return None
        paths = {unit.name: _Path(self.points) for unit in subject.units}
        nodes = gauss_legendre(self.points)[0]
        with Replay(subject, batch, enter={first.name: lambda x: start}) as run:
            total = run.losses.double() - end.double()
        for run in self._along(subject, batch, first, start, nodes):
            for unit in subject.units:
                paths[unit.name].note(run, unit)
        return paths, total

    def _along(
        self, subject: Subject, batch: Any, first: Unit, start: Tensor, nodes: Tensor
    ) -> Iterator[Replay]:
        for node in nodes.tolist():
            enter = {first.name: lambda x, node=node: start + node * (x - start)}
            with Replay(subject, batch, gradients=True, enter=enter) as run:
                yield run

    def _start(self, run: Replay, first: Unit, generator: torch.Generator) -> Tensor | None:
        """The baseline in the place of the first unit's stream; ``None`` if there is none."""
        count = size(run.batch)
        if not run.ran(first):
            return None
        x = run.x(first)
        if self.baseline == "zero":
            return torch.zeros_like(x)
        rows = samples_first(run.subject, first, x, count)
        if rows is None or count < 2:
            return None
        donors = derangement(count, generator).to(rows.device)
        other = donated(run.subject, first, run.batch, rows, donors)
        return as_given(run.subject, first, other)

    def _result(self, subject: Subject, parts: dict[str, Differences]) -> MethodScores:
        whole = parts["value"].whole()
        extras = {
            part: {name: float(kept.moments[name].mean) for name in whole}
            for part, kept in parts.items()
            if part != "value"
        }
        scores = {name: Score.of(moments) for name, moments in whole.items()}
        found = self.result(scores, extras, parts["value"].missing())
        forwards, backwards = self.passes(len(subject.units))
        measure = subject.task.measure
        return replace(found, measure=measure, forwards=forwards, backwards=backwards)


@dataclass(slots=True)
class _Path:
    """One unit's input, branch and gradient at the points of the path."""

    points: int
    x: list[Tensor] = field(default_factory=list)
    added: list[Tensor] = field(default_factory=list)
    grads: list[Tensor] = field(default_factory=list)

    def note(self, run: Replay, unit: Unit) -> None:
        """Keeps what the unit does at one point."""
        if run.ran(unit):
            x, y = run.x(unit), run.y(unit)
            self.x.append(x)
            self.added.append(branch(unit, x, y))
            self.grads.append(run.gradient(unit))

    def conducted(self, subject: Subject, unit: Unit, batch: Any) -> tuple[Tensor, Tensor] | str:
        """What flows through the branch and past it, ``[N]`` each; a reason if unknown."""
        if len(self.x) < self.points:
            return "did not run"
        through = self._integral(subject, unit, batch, self.added)
        if through is None:
            return "samples cannot be told apart in its stream"
        past = self._integral(subject, unit, batch, self.x) if passes_on(unit) else None
        return through, torch.zeros_like(through) if past is None else past

    def _integral(
        self, subject: Subject, unit: Unit, batch: Any, values: list[Tensor]
    ) -> Tensor | None:
        _, weights, matrix = gauss_legendre(self.points)
        total: Tensor | None = None
        for i, grad in enumerate(self.grads):
            slope = sum(float(matrix[i, j]) * v.double() for j, v in enumerate(values))
            rows = samples_first(subject, unit, grad.double() * slope, size(batch))
            if rows is None:
                return None
            known = known_entries(subject, unit, batch, rows)
            if known is not None:
                rows = torch.where(known, rows, torch.zeros_like(rows))
            part = -float(weights[i]) * rows.flatten(1).sum(1)
            total = part if total is None else total + part
        return total
