"""What attention looks like: how spread, how sure, how far."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from layer_importance._batch import size
from layer_importance._heads import Attending, mixers, running
from layer_importance._method import PassMethod
from layer_importance._moments import Moments
from layer_importance._opened import opened
from layer_importance._scores import Direction, MethodScores, Score
from layer_importance._subject import Subject
from layer_importance._units import Unit

_COLUMNS = ("value", "confidence", "distance", "rollout_entropy")


class AttentionMaps(PassMethod):
    """Mean entropy of a unit's attention, in nats, over heads and real queries.

    ``-sum_s a_ts ln a_ts``: ``ln S`` where attention is uniform over ``S`` tokens, 0 where it is on
    one. Beside it ``confidence``, the mean largest weight; ``distance``, the mean number of places
    between a query and what it attends to, ``sum_s a_ts |t - s|``, of self-attention over a row of
    tokens; and ``rollout_entropy``, the entropy of the rollout so far: the product of
    ``(A + 1) / 2`` over attention matrices ``A``, meaned over heads, of this unit and those before
    it in its chain. What these say is what attention does, not whether it matters: see
    :class:`AttentionAnalysis` for that.

    Args:
        samples: how many samples it looks at; matrices of one batch are held at a time.

    Source: confidence: Voita et al., arXiv 1905.09418; rollout: Abnar and Zuidema, arXiv
    2005.00928, eq. 1; distance: Dosovitskiy et al., arXiv 2010.11929.
    """

    name = "attention_maps"
    measure = "nats"
    direction: ClassVar[Direction] = "diagnostic"

    def __init__(self, *, samples: int = 32) -> None:
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        self.samples = samples

    def unmet(self, subject: Subject) -> str:
        """Needs attention."""
        if not mixers(subject):
            return "needs attention, and no unit attends"
        return super().unmet(subject)

    def passes(self, units: int) -> tuple[float, float]:
        """A run on few samples."""
        del units
        return 1.0, 0.0

    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """Looks at the first samples."""
        found: dict[str, dict[str, Moments]] = {column: {} for column in _COLUMNS}
        left = self.samples
        for done, batch in enumerate(subject.batches()):
            part = subject.some(batch, left)
            self._look(subject, part, found)
            progress(self.name, done + 1)
            left -= size(part)
            if left <= 0:
                break
        first, *others = _COLUMNS
        scores = {name: Score.of(moments) for name, moments in found[first].items()}
        extras = {c: {name: float(m.mean) for name, m in found[c].items()} for c in others}
        return self.result(scores, extras, _silent(subject, scores))

    @torch.no_grad()
    def _look(self, subject: Subject, batch: object, found: dict[str, dict[str, Moments]]) -> None:
        samples, rollouts = size(batch), dict[str, Tensor]()
        maps: dict[str, list[Tensor]] = {}

        def attended(matrix: Tensor) -> None:
            for unit in now.units if len(matrix) == samples else ():
                maps.setdefault(unit.name, []).append(matrix.double())

        with opened(subject.model), running(subject) as now, Attending(attended, values=True):
            subject.forward(batch)
        for unit in subject.units:
            if unit.name not in maps:
                continue
            for column, values in _columns(subject, unit, batch, maps[unit.name], rollouts):
                found[column].setdefault(unit.name, Moments()).add(values)


def _columns(
    subject: Subject, unit: Unit, batch: object, maps: list[Tensor], rollouts: dict[str, Tensor]
) -> list[tuple[str, Tensor]]:
    """Each column's values, ``[N]``."""
    columns: list[tuple[str, Tensor]] = []
    own = [m for m in maps if m.shape[-2] == m.shape[-1]]
    masks = [subject.mask(batch, m.shape[-2], unit.tower) for m in maps]
    entropies = [over_queries(entropy(m), k) for m, k in zip(maps, masks, strict=True)]
    sure = [over_queries(m.amax(-1), k) for m, k in zip(maps, masks, strict=True)]
    columns.append(("value", torch.stack(entropies).mean(0)))
    columns.append(("confidence", torch.stack(sure).mean(0)))
    if own:
        mask = subject.mask(batch, own[0].shape[-2], unit.tower)
        columns.append(("distance", over_queries(distance(own[0]), mask)))
        before = rollouts.get(unit.tower)
        if before is None or before.shape[-1] == own[0].shape[-1]:
            rolled = rollouts[unit.tower] = rollout(own, before)
            columns.append(("rollout_entropy", over_queries(entropy(rolled[:, None]), mask)))
    return columns


def entropy(attention: Tensor) -> Tensor:
    """Returns ``-sum a ln a`` over the last dimension."""
    return -torch.special.xlogy(attention, attention).sum(-1)


def distance(attention: Tensor) -> Tensor:
    """Returns the mean number of places between each query and what it attends to."""
    places = torch.arange(attention.shape[-1], dtype=attention.dtype, device=attention.device)
    return (attention * (places[:, None] - places).abs()).sum(-1)


def rollout(maps: list[Tensor], before: Tensor | None = None) -> Tensor:
    """Returns the product of ``(A + 1) / 2`` over maps ``[N, heads, T, T]``, after ``before``."""
    for attention in maps:
        mean = attention.mean(1)
        mixed = (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2
        before = mixed if before is None else mixed @ before
    assert before is not None
    return before


def over_queries(values: Tensor, mask: Tensor | None) -> Tensor:
    """Returns the mean of ``[N, heads, T]`` over heads and real queries, ``[N]``."""
    each = values.mean(1)
    if mask is None:
        return each.mean(1)
    real = mask.to(each.dtype)
    return torch.where(mask.bool(), each, torch.zeros_like(each)).sum(1) / real.sum(1).clamp_min(1)


def _silent(subject: Subject, scores: dict[str, Score]) -> dict[str, str]:
    return {u.name: "does not attend" for u in subject.units if u.name not in scores}
