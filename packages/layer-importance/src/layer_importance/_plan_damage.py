"""What a model loses without sets of units, on a fixed part of the data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from layer_importance._batch import size, take
from layer_importance._edits import Edit, removal
from layer_importance._moments import Moments
from layer_importance._replay import Replay
from layer_importance._structure import tensors
from layer_importance._subject import Subject

Progress = Callable[[str, int], None]


class Judge:
    """Paired damages of sets of units on some batches; a context, inside :func:`preserved`.

    The unchanged runs are kept as long as they take no more than ``memory`` bytes, so that a set
    costs only what comes after its first unit; else each set runs the model once more.

    Args:
        subject: what is studied.
        batches: the part of the data that is judged by.
        memory: what may be kept, in bytes.

    Attributes:
        forwards: how many times the part of the data went through the model, in whole passes.
    """

    def __init__(self, subject: Subject, batches: Sequence[Any], *, memory: int = 1 << 30) -> None:
        self.subject, self.batches, self.memory = subject, batches, memory
        self._executed = self._length = 0
        self._kept: list[Replay] = []
        self._stack = ExitStack()

    def __enter__(self) -> "Judge":
        first = self._stack.enter_context(Replay(self.subject, self.batches[0]))
        self._kept.append(first)
        self._length = first.length
        each = sum(_bytes(first, unit.name) for unit in self.subject.units)
        if each * len(self.batches) <= self.memory:
            for batch in self.batches[1:]:
                self._kept.append(self._stack.enter_context(Replay(self.subject, batch)))
        self._executed = sum(replay.executed for replay in self._kept)
        return self

    def __exit__(self, *error: object) -> None:
        self._kept.clear()
        self._stack.close()

    @property
    def forwards(self) -> float:
        """Whole passes over the part of the data so far."""
        return self._executed / max(self._length * len(self.batches), 1)

    def replays(self) -> Iterator[Replay]:
        """Yields the unchanged run of each batch."""
        for index, batch in enumerate(self.batches):
            if index < len(self._kept):
                before = self._kept[index].executed
                yield self._kept[index]
                self._executed += self._kept[index].executed - before
            else:
                with Replay(self.subject, batch) as replay:
                    yield replay
                    self._executed += replay.executed

    def without(self, names: Sequence[str] | frozenset[str]) -> dict[str, Edit]:
        """Returns the edits that take the named units out."""
        return {name: removal(self.subject.units[name]) for name in names}

    def damages(self, sets: Sequence[frozenset[str]]) -> list[float]:
        """Returns the mean damage of each set; infinite where a loss is not finite."""
        found = self.differences([self.without(names) for names in sets])
        return [float(m.mean) if m.count and not m.skipped else torch.inf for m in found]

    def differences(self, edits: Sequence[Mapping[str, Edit]]) -> list[Moments]:
        """Returns the moments of ``l(edited) - l`` for each of several edits, in one pass."""
        found = [Moments() for _ in edits]
        for replay in self.replays():
            for moments, one in zip(found, edits, strict=True):
                moments.add(_losses(replay, one) - _losses(replay, {}))
        return found

    def compared(self, edits: Mapping[str, Edit], other: Mapping[str, Edit]) -> Moments:
        """Returns the moments of ``l(edited) - l(edited otherwise)``."""
        found = Moments()
        for replay in self.replays():
            found.add(_losses(replay, edits) - _losses(replay, other))
        return found

    def quality(self, edits: Mapping[str, Edit]) -> tuple[Moments, Moments] | None:
        """Returns the moments of the quality as it was and of its change; ``None`` without one."""
        before, change = Moments(), Moments()
        for replay in self.replays():
            first = self._quality(replay, replay.output)
            if first is None:
                return None
            after = self._quality(replay, replay.run(edits))
            assert after is not None
            before.add(first.double())
            change.add(after.double() - first.double())
        return before, change

    def _quality(self, replay: Replay, output: Any) -> Tensor | None:
        task = self.subject.task
        return task.quality(output, task.labels(replay.answers), replay.answers)


def halves(subject: Subject) -> tuple[list[Any], list[Any], str]:
    """Returns the batches to search on, those to judge on, and what to know about them.

    Every other batch is for either; a single one is cut in two. The batches are kept: a loader
    that shuffles would mix the halves.
    """
    batches = list(subject.batches())
    if len(batches) > 1:
        return batches[::2], batches[1::2], ""
    (only,) = batches
    if subject.divisible and size(only) > 1:
        rows = list(range(size(only)))
        return [take(only, rows[::2])], [take(only, rows[1::2])], ""
    note = "the data cannot be cut in two: damage is judged on what the plan was chosen by"
    return batches, batches, note


def _losses(replay: Replay, edits: Mapping[str, Edit]) -> Tensor:
    losses = replay.losses_with(edits) if edits else replay.losses
    return losses.detach().to("cpu", torch.float64)


def _bytes(replay: Replay, name: str) -> int:
    recorded = replay._record.get(name)
    if recorded is None:
        return 0
    return sum(t.untyped_storage().nbytes() for t in tensors((recorded.x, recorded.output)))
