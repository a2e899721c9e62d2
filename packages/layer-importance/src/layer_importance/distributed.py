"""One analysis by any number of processes, over `torch.distributed`.

Started with ``torchrun``, every process calls :func:`analyze` with the same model, the same batches
and the same methods, and has the same report afterwards, that of one process alone.
"""

import copy
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from layer_importance._analyze import named_methods, prepared
from layer_importance._method import Method, PassMethod, SweepMethod
from layer_importance._modality import Modality
from layer_importance._pace import Pace
from layer_importance._preserve import preserved
from layer_importance._registry import Registry
from layer_importance._report import Report
from layer_importance._run import Progress, Run
from layer_importance._scores import MethodScores
from layer_importance._states import Seen, add, seen
from layer_importance._subject import Subject
from layer_importance._talk import Talk
from layer_importance._task import Task
from layer_importance._units import Units

__all__ = ["analyze"]


def analyze(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    methods: Sequence[str | Method] = ("block_influence", "skip_attribution"),
    task: str | Task = "classification",
    units: Units | Sequence[str] | None = None,
    modality: str | Modality | None = "auto",
    max_batches: int | None = None,
    seed: int = 0,
    registry: Registry | None = None,
    progress: Progress | None = None,
    group: Any = None,
) -> Report:
    """Returns what :func:`layer_importance.analyze` does, worked out by all processes together.

    Of the sweep, each takes every ``world size``-th batch; what the methods have seen is merged in
    the order of ranks, as float64. Of a method that runs the model itself, each takes its share of
    the units, where the method takes ``units`` as leave-one-out does, else all of it is one
    process's. Numbers that depend on a batch's place among all, such as drawn labels, are those of
    one process. Nothing is pickled.

    Collective: every process of the group calls it, with the same arguments and equal models. What
    goes wrong on one is raised on all.

    Args:
        model: any module, the same in every process.
        batches: all batches, the same in every process and in the same order.
        methods: methods or their names.
        task: a task or its name.
        units: what to score.
        modality: what kind of data it is.
        max_batches: use at most so many batches.
        seed: of everything drawn at random.
        registry: where names of methods are looked up.
        progress: told what this process does.
        group: a process group; all processes if not given.

    Raises:
        ValueError: as :func:`layer_importance.analyze` does, or if models differ.
        RuntimeError: naming the process, if another one failed.

    Example:
        >>> import torch, torch.distributed as dist
        >>> from torch import nn
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])
        >>> data = [(torch.randn(8, 4), torch.zeros(8, dtype=torch.long)) for _ in range(3)]
        >>> analyze(net, data).samples
        24
        >>> dist.destroy_process_group()
    """
    talk = Talk(group)
    with talk.together():
        chosen = named_methods(methods, registry)
        model, subject, note = prepared(model, batches, task, units, max_batches, seed, modality)
        talk.agree({"methods": [m.name for m in chosen], "model": _sums(model), "seed": seed})
        run = _Share(subject, progress, talk)
        with preserved(model, gradients=True):
            run.ask(chosen)
        report = run.report(note).to_dict() if talk.rank == 0 else None
        first, *_ = talk.exchange(json.dumps(report).encode())
    return Report.from_dict(json.loads(first))


def _sums(model: nn.Module) -> list[float]:
    values = [p.detach().double() for p in model.parameters()]
    return [float(sum(f(v).sum() for v in values)) for f in (torch.abs, torch.square)]


class _Ranks(Pace):
    """Every process its batches; at the end, the first process has seen them all."""

    def __init__(self, talk: Talk) -> None:
        self._talk, self._last, self._ran = talk, -1, 0

    def mine(self, index: int) -> bool:
        """Every ``world``-th."""
        self._last = index
        return index % self._talk.world == self._talk.rank

    def after(self, index: int) -> None:
        """Counts."""
        self._ran += 1

    def end(self) -> None:
        """Gives the first process what the others saw."""
        mine = seen(self.sweep, self.methods).to_bytes()
        _, *others = (Seen.from_bytes(one) for one in self._talk.exchange(mine))
        if self._talk.rank == 0:
            for other in others:
                add(other, self.methods)
                self.sweep.samples += int(other.facts["samples"])
                self.sweep.resumed(int(other.facts["backwards"]))
        # as if it had run them all
        self.before(self._last + 1)


class _Share(Run):
    """What one process does of an analysis; that of the first ends with the whole."""

    def __init__(self, subject: Subject, progress: Progress | None, talk: Talk) -> None:
        super().__init__(subject, progress, time.perf_counter, time.perf_counter(), None)
        self.talk, self.pace = talk, _Ranks(talk)

    def ask(self, methods: Sequence[Method]) -> None:
        """Runs its share of what was asked for, and hears of the others'."""
        unmet = {method.name: method.unmet(self.subject) for method in methods}
        self.reasons = {name: why or "asked for" for name, why in unmet.items()}
        runs = [method for method in methods if not unmet[method.name]]
        self._sweep([m for m in runs if isinstance(m, SweepMethod)], 1.0)
        alone = [method for method in runs if isinstance(method, PassMethod)]
        mine = {m.name: self._mine(m, place) for place, m in enumerate(alone)}
        plain = {name: scores.to_dict() for name, scores in mine.items() if scores is not None}
        told = [json.loads(one) for one in self.talk.exchange(json.dumps(plain).encode())]
        for method in alone:
            shares = [
                MethodScores.from_dict(one[method.name]) for one in told if method.name in one
            ]
            self.found[method.name] = _joined(shares, self.subject.units.names)
        self.found = {m.name: self.found[m.name] for m in runs}

    def _mine(self, method: PassMethod, place: int) -> MethodScores | None:
        """This process's share of a method: some units, or all, or nothing."""
        start = self.clock()
        if hasattr(method, "units"):
            names = self.subject.units.names if method.units is None else list(method.units)
            method = copy.copy(method)
            method.units = names[self.talk.rank :: self.talk.world]
            if not method.units:
                return None
        elif place % self.talk.world != self.talk.rank:
            return None
        scores = method.run(self.subject, self.progress)
        return replace(scores, seconds=self.clock() - start)


def _joined(shares: Sequence[MethodScores], names: Sequence[str]) -> MethodScores:
    """Returns the scores of all units, in their order; passes of all processes are added up."""
    first = shares[0]
    if len(shares) == 1:
        return first

    def join(of: Callable[[MethodScores], Any]) -> dict[str, Any]:
        merged = {name: value for share in shares for name, value in of(share).items()}
        return {n: merged[n] for n in names if n in merged} | merged

    def column(name: str) -> Callable[[MethodScores], Any]:
        return lambda share: share.extras.get(name, {})

    columns = dict.fromkeys(c for share in shares for c in share.extras)
    return replace(
        first,
        scores=join(lambda share: share.scores),
        extras={name: join(column(name)) for name in columns},
        missing=join(lambda share: share.missing),
        notes=join(lambda share: share.notes),
        seconds=max(share.seconds for share in shares),
        forwards=sum(share.forwards for share in shares),
        backwards=sum(share.backwards for share in shares),
    )
