"""One analysis by any number of processes, over `torch.distributed`.

Started with ``torchrun``, every process calls :func:`analyze` with the same model, the same batches
and the same methods, and has the same report afterwards, that of one process alone.
"""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from layer_importance._ablation import Ablation
from layer_importance._analyze import named_methods, prepared
from layer_importance._damage_race import DamageRace
from layer_importance._method import Method, PassMethod
from layer_importance._modality import Modality
from layer_importance._outcome import without_reach
from layer_importance._pace import Pace
from layer_importance._preserve import preserved
from layer_importance._registry import Registry, registry as default_registry
from layer_importance._replay import Replay
from layer_importance._report import Report
from layer_importance._run import Progress, Run
from layer_importance._scores import MethodScores
from layer_importance._select import Selection
from layer_importance._sharing import Share, totals
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
    methods: Sequence[str | Method] | str = ("block_influence", "skip_attribution"),
    task: str | Task = "classification",
    units: Units | Sequence[str] | None = None,
    modality: str | Modality | None = "auto",
    bottom: int | None = None,
    delta: float = 0.05,
    max_batches: int | None = None,
    seed: int = 0,
    registry: Registry | None = None,
    progress: Progress | None = None,
    group: Any = None,
) -> Report:
    """Returns what :func:`layer_importance.analyze` does, worked out by all processes together.

    Each takes every ``world size``-th batch, of the sweep and of methods that run the model
    themselves, where what they keep are sums (``shares``); what the processes have seen is merged
    in the order of ranks, as float64. Of the other methods, each is one process's. Numbers that
    depend on a batch's place among all, such as drawn labels, are those of one process. With
    ``"auto"`` the first process's clock chooses the methods, and all leave units out together, as
    without a limit of time. Nothing is pickled.

    Collective: every process of the group calls it, with the same arguments and equal models. What
    goes wrong on one is raised on all.

    Args:
        model: any module, the same in every process.
        batches: all batches, the same in every process and in the same order.
        methods: methods or their names; ``"auto"`` to have them chosen.
        task: a task or its name.
        units: what to score.
        modality: what kind of data it is.
        bottom: with ``"auto"``, how many units the race is for.
        delta: probability, at most, that the race is wrong.
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
        if isinstance(methods, str) and methods != "auto":
            raise ValueError(f"methods must be 'auto' or a list of methods, got {methods!r}")
        named = None if isinstance(methods, str) else named_methods(methods, registry)
        model, subject, note = prepared(model, batches, task, units, max_batches, seed, modality)
        names = "auto" if named is None else [method.name for method in named]
        talk.agree({"methods": names, "model": _sums(model), "seed": seed})
        run = _Run(subject, progress, talk)
        with preserved(model, gradients=True):
            if named is None:
                run.choose(registry or default_registry, bottom, delta)
            else:
                run.ask(named)
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


class _Share(Share):
    """Every process its batches; what they keep is put together."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    def mine(self, index: int) -> bool:
        """Every ``world``-th."""
        return index % self._talk.world == self._talk.rank

    def exchange(self, plain: Any) -> list[Any]:
        """As JSON."""
        return [json.loads(one) for one in self._talk.exchange(json.dumps(plain).encode())]


class _Run(Run):
    """What one process does of an analysis; that of the first ends with the whole."""

    def __init__(self, subject: Subject, progress: Progress | None, talk: Talk) -> None:
        super().__init__(subject, progress, time.perf_counter, time.perf_counter(), None)
        self.talk, self.pace, self.share = talk, _Ranks(talk), _Share(talk)

    def _alone(self, methods: Sequence[Method]) -> None:
        """Those that can share batches do; of the others each is one process's."""
        chosen = [method for method in methods if isinstance(method, PassMethod)]
        mine: dict[str, Any] = {}
        for place, method in enumerate(chosen):
            owner = 0 if method.shares else place % self.talk.world
            if method.shares or owner == self.talk.rank:
                start, subject = self.clock(), self.subject
                subject = subject.shared(self.share) if method.shares else subject
                scores = without_reach(method, method.run(subject, self.progress), subject)
                if owner == self.talk.rank:
                    mine[method.name] = replace(scores, seconds=self.clock() - start).to_dict()
        for told in self.share.exchange(mine):
            self.found |= {name: MethodScores.from_dict(one) for name, one in told.items()}

    def _selection(self, registry: Registry) -> Selection:
        """What the first process's clock makes of it."""
        found = super()._selection(registry) if self.talk.rank == 0 else None
        plain = found and [
            [m.name for m in found.methods],
            dict(found.reasons),
            found.race,
            found.race_s,
            found.why,
        ]
        (names, reasons, race, race_s, why), *_ = self.share.exchange(plain)
        methods = tuple(registry.get(name)() for name in names)
        return Selection(methods=methods, reasons=reasons, race=race, race_s=race_s, why=why)

    def _prior(self) -> Sequence[str]:
        """What the first process has seen of all."""
        prior, *_ = self.share.exchange(list(super()._prior()) if self.talk.rank == 0 else [])
        return tuple(prior)

    def _raced(self, race: DamageRace) -> MethodScores:
        """Leaves units out in as many batches at a time as there are processes."""
        subject, ablation = self.subject.shared(self.share), Ablation(self.subject)
        batches, executed, length, done = iter(subject.batches()), 0.0, 0.0, 0
        while True:
            mine: dict[str, list[float]] = {}
            if (batch := next(batches, None)) is not None:
                with Replay(subject, batch) as replay:
                    damages = race.damages(replay, ablation)
                    mine = {name: each.tolist() for name, each in damages.items()}
                    executed, length = executed + replay.executed, length + replay.length
            # in the order of batches, as one process would hear of them
            told = [one for one in self.share.exchange(mine) if one]
            for one in told:
                race.tell({n: torch.tensor(v, dtype=torch.float64) for n, v in one.items()})
            done += len(told)
            self.progress("race", done)
            if len(told) < self.talk.world:
                executed, length = totals(self.share, executed, length)
                return race.scores(executed / max(length, 1))
