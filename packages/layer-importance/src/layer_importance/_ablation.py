"""What stands in for a unit that is ablated."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from layer_importance._batch import size
from layer_importance._edits import Edit, branch, removal, with_branch
from layer_importance._moments import Moments
from layer_importance._replay import Replay
from layer_importance._sharing import gathered
from layer_importance._streams import (
    as_given,
    channel_dim,
    derangement,
    donated,
    known_entries,
    over_features,
    samples_first,
    tokens,
)
from layer_importance._subject import Subject
from layer_importance._units import Unit

Mode = Literal["auto", "identity", "zero", "mean", "resample"]


class Ablation:
    """The edits that ablate units.

    ``identity``: the unit hands its input on. ``zero``: its branch adds nothing. ``mean``: its
    branch is, for every token, what it is on average over the real tokens of all batches.
    ``resample``: its branch is that of another sample of the same batch, the donors of a random
    cycle through it. ``auto``: ``identity`` or ``zero`` as the unit allows, else ``mean``. The
    branch is what the unit adds to its stream; where its input cannot pass by, all it hands on.

    Args:
        subject: what is studied.
        mode: one of the above.

    Raises:
        ValueError: if there is no such mode.
    """

    def __init__(self, subject: Subject, mode: Mode = "auto") -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        self.subject, self.mode = subject, mode
        self._means: dict[str, Moments] = {}
        self._donors = torch.empty(0)

    def way(self, unit: Unit) -> str:
        """Returns what is done to a unit: the mode, with ``auto`` decided."""
        if self.mode != "auto":
            return self.mode
        return unit.removal if unit.removable else "mean"

    def unmet(self, unit: Unit) -> str:
        """Returns why a unit cannot be ablated so; empty if it can."""
        if self.way(unit) == "identity" and not unit.removable:
            return f"its input cannot stand in for it: it {unit.reason}"
        return ""

    def prepare(self, units: Iterable[Unit], progress: Callable[[str, int], None]) -> int:
        """Takes the means that ``units`` need; returns how many passes over the data it took."""
        needed = [unit for unit in units if self.way(unit) == "mean"]
        if not needed:
            return 0
        for replay in replays(self.subject, "means", progress):
            for unit in needed:
                if replay.ran(unit):
                    self._average(replay, unit)
        self._means = gathered(self.subject.share, self._means)
        return 1

    def begin(self, batch: Any) -> None:
        """Draws who stands in for whom in a batch; called once for each."""
        count = size(batch)
        generator = self.subject.drawn(self.subject.index)
        self._donors = derangement(count, generator) if count > 1 else torch.empty(0)

    def edit(self, replay: Replay, unit: Unit) -> Edit | str:
        """Returns the edit for a unit in a batch, or why there is none."""
        way = self.way(unit)
        if reason := self.unmet(unit):
            return reason
        if not replay.ran(unit):
            return "did not run"
        if way == "identity":
            return Edit(lambda x, y: x)
        if way == "zero":
            return removal(unit) if unit.removable else Edit(lambda x, y: torch.zeros_like(y))
        return self._mean(replay, unit) if way == "mean" else self._resample(replay, unit)

    def _average(self, replay: Replay, unit: Unit) -> None:
        added = branch(unit, replay.x(unit), replay.y(unit))
        rows = samples_first(self.subject, unit, added, size(replay.batch))
        if rows is None:
            flat = added.movedim(channel_dim(self.subject, unit, added), -1)
            values = flat.reshape(-1, flat.shape[-1])
        else:
            every = tokens(self.subject, unit, rows)
            known = known_entries(self.subject, unit, replay.batch, rows)
            values = every.flatten(0, 1) if known is None else every[known.flatten(1)]
        self._means.setdefault(unit.name, Moments((values.shape[-1],))).add(values)

    def _mean(self, replay: Replay, unit: Unit) -> Edit:
        mean, subject = self._means[unit.name].mean, self.subject

        def change(x: Tensor, y: Tensor) -> Tensor:
            added = over_features(subject, unit, mean, y).expand_as(y)
            return with_branch(unit, x, added)

        return Edit(change)

    def _resample(self, replay: Replay, unit: Unit) -> Edit | str:
        count = size(replay.batch)
        if count < 2:
            return "no batch has a second sample to stand in"
        added = branch(unit, replay.x(unit), replay.y(unit))
        rows = samples_first(self.subject, unit, added, count)
        if rows is None:
            return "samples cannot be told apart in its stream"
        donors = self._donors.to(rows.device)
        other = donated(self.subject, unit, replay.batch, rows, donors)
        return Edit(lambda x, y: with_branch(unit, x, as_given(self.subject, unit, other)))


def replays(subject: Subject, what: str, progress: Callable[[str, int], None]) -> Iterator[Replay]:
    """Yields the unchanged run of every batch, ready to be edited."""
    for done, batch in enumerate(subject.batches(), 1):
        with Replay(subject, batch) as replay:
            yield replay
        progress(what, done)


def chosen(subject: Subject, names: Sequence[str] | None) -> list[Unit]:
    """Returns the units called so, in order of execution; all if none is named.

    Raises:
        ValueError: if there is no unit of a name.
    """
    if names is None:
        return list(subject.units)
    if unknown := [name for name in names if name not in subject.units.names]:
        raise ValueError(f"units must be names of units, got {', '.join(unknown)}")
    return [unit for unit in subject.units if unit.name in names]
