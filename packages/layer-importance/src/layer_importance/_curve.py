"""What a model is worth with more and more of its units gone."""

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

from layer_importance._ablation import replays
from layer_importance._analyze import prepared
from layer_importance._edits import removal
from layer_importance._modality import Modality
from layer_importance._moments import Moments
from layer_importance._preserve import preserved
from layer_importance._replay import Replay
from layer_importance._task import Task
from layer_importance._units import Unit, Units


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A model without some of its units.

    Attributes:
        removed: how many units are gone.
        unit: the last of them; empty where none is.
        parameters: how many numbers the units that are left hold.
        quality: mean over samples, more is better; NaN if the task has none.
        quality_error: its standard error.
        loss: mean over samples.
        loss_error: its standard error.
    """

    removed: int
    unit: str
    parameters: int
    quality: float
    quality_error: float
    loss: float
    loss_error: float


def removal_curve(
    model: nn.Module,
    batches: Iterable[Any],
    order: Sequence[str],
    *,
    task: str | Task = "classification",
    units: Units | Sequence[str] | None = None,
    modality: str | Modality | None = "auto",
    max_batches: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int], None] = lambda what, done: None,
) -> tuple[CurvePoint, ...]:
    """Returns loss and quality with the first ``0, 1, ..., len(order)`` units of an order gone.

    Every point is measured on the same samples; nothing is healed. One unchanged run and part of a
    run for each unit a batch. The model is as it was afterwards.

    Args:
        model: any module.
        batches: with labels, in the form the task reads; best others than those the order is from.
        order: names of removable units, the first to go first, such as a consensus's ranking.
        task: a task or its name.
        units: the units; found by :func:`discover` if not given.
        modality: what kind of data it is.
        max_batches: use at most so many batches.
        seed: of everything drawn at random.
        progress: told how many batches are done.

    Raises:
        ValueError: if ``order`` names a unit that is not there or cannot be removed, or twice the
            same, or the batches have no labels.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)])
        >>> batches = [(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))]
        >>> points = removal_curve(net, batches, ["2.0", "1.0"])
        >>> [(point.removed, point.unit) for point in points]
        [(0, ''), (1, '2.0'), (2, '1.0')]
    """
    model, subject, _ = prepared(model, batches, task, units, max_batches, seed, modality)
    gone = _removable(subject.units, order)
    if not subject.has_labels:
        raise ValueError("batches must hold labels for a curve, got none")
    kept = [(Moments(), Moments()) for _ in range(len(gone) + 1)]
    with preserved(model, gradients=False):
        for replay in replays(subject, "curve", progress):
            for count, (quality, loss) in enumerate(kept):
                _measure(replay, gone[:count], quality, loss)
    points, left = [], sum(unit.parameters for unit in subject.units)
    for count, (quality, loss) in enumerate(kept):
        last = gone[count - 1] if count else None
        left -= last.parameters if last else 0
        found = (*_mean(quality), *_mean(loss))
        points.append(CurvePoint(count, last.name if last else "", left, *found))
    return tuple(points)


def curve_csv(points: Sequence[CurvePoint]) -> str:
    """Returns one line for each point, under a line of names."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(CurvePoint)])
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    return text.getvalue()


def _removable(units: Units, order: Sequence[str]) -> list[Unit]:
    if len(set(order)) < len(order):
        raise ValueError(f"order must name each unit once, got {', '.join(order)}")
    names = units.removable.names
    if unknown := [name for name in order if name not in names]:
        raise ValueError(f"order must be of removable units, got {', '.join(unknown)}")
    return [units[name] for name in order]


def _measure(replay: Replay, gone: Sequence[Unit], quality: Moments, loss: Moments) -> None:
    subject, edits = replay.subject, {unit.name: removal(unit) for unit in gone}
    output = replay.run(edits) if edits else replay.output
    loss.add(subject.losses(output, replay.answers, finite=False).detach())
    labels = subject.task.labels(replay.answers)
    if (good := subject.task.quality(output, labels, replay.answers)) is not None:
        quality.add(good.detach())


def _mean(moments: Moments) -> tuple[float, float]:
    if not moments.count:
        return float("nan"), float("nan")
    return float(moments.mean), float(moments.standard_error)
