"""Bridges over what a plan takes out, kept where they pay."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from layer_importance._bridge import Bridge, BridgeMoments
from layer_importance._edits import Edit
from layer_importance._paired import t_interval
from layer_importance._plan_damage import Judge
from layer_importance._replay import Replay
from layer_importance._streams import channel_dim, known_tokens, samples_first, tokens
from layer_importance._subject import Subject
from layer_importance._units import Unit, Units

Span = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Bridged:
    """A bridge over a span of removed units.

    Attributes:
        span: names of the units, in order; the bridge stands in for the first.
        bridge: what stands in.
        tokens: real tokens it was fitted on.
        per_batch: tokens that go through it in one batch, padded ones too.
    """

    span: Span
    bridge: Bridge
    tokens: int
    per_batch: int

    @property
    def parameters(self) -> int:
        """How many it has."""
        return sum(p.numel() for p in self.bridge.parameters())

    @property
    def flops(self) -> float:
        """Of one batch."""
        return 2.0 * self.per_batch * len(self.bridge.bias) ** 2


def spans(units: Units, removed: frozenset[str]) -> list[Span]:
    """Returns the runs of removed units that follow each other in a chain and hand a stream on."""
    found: list[list[Unit]] = []
    for chain in units.chains.values():
        before: Unit | None = None
        for unit in chain:
            # one of several calls cannot be bridged alone: its module is still there
            if unit.name not in removed or unit.removal != "identity" or unit.call is not None:
                before = None
                continue
            if before is None:
                found.append([])
            found[-1].append(unit)
            before = unit
    return [tuple(unit.name for unit in run) for run in found]


def fitted(
    judge: Judge, removed: frozenset[str], *, ridge: float = 1e-4, max_width: int = 2048
) -> tuple[list[Bridged], list[str]]:
    """Returns a bridge over every span, from one pass, and why there is none over the others."""
    subject = judge.subject
    moments: dict[Span, BridgeMoments] = {}
    channels: dict[Span, int] = {}
    counts: dict[Span, int] = {}
    notes: list[str] = []
    wanted = spans(subject.units, removed)
    for replay in judge.replays():
        for span in list(wanted):
            ends = _ends(subject, replay, span)
            if isinstance(ends, str) or ends[0].shape[-1] > max_width:
                why = ends if isinstance(ends, str) else f"its stream is wider than {max_width}"
                notes.append(f"no bridge over {span[0]}: {why}")
                wanted.remove(span)
                continue
            x, y, mask, dim = ends
            channels[span], counts[span] = dim, max(counts.get(span, 0), x.shape[0] * x.shape[1])
            kept = moments.setdefault(span, BridgeMoments(x.shape[-1]))
            kept.add(x if mask is None else x[mask], y if mask is None else y[mask])
    found = []
    for span in wanted:
        if moments[span].count <= moments[span].width:
            notes.append(f"no bridge over {span[0]}: fewer tokens than features")
            continue
        bridge = moments[span].solve(ridge=ridge, channels=channels[span])
        bridge = bridge.to(subject.device, _dtype(subject, span))
        found.append(Bridged(span, bridge, moments[span].count, counts[span]))
    return found, notes


def paying(
    judge: Judge,
    removed: frozenset[str],
    offered: Sequence[Bridged],
    *,
    affordable: Callable[[Sequence[Bridged]], bool],
    confidence: float,
) -> tuple[list[Bridged], list[str]]:
    """Returns the bridges that lower the loss on the judge's data for sure, and why not others.

    One after the other, each held against what was kept so far.
    """
    kept: list[Bridged] = []
    notes: list[str] = []
    for one in offered:
        if not affordable([*kept, one]):
            notes.append(f"no bridge over {one.span[0]}: the target would be missed")
            continue
        moments = judge.compared(edits(judge, removed, [*kept, one]), edits(judge, removed, kept))
        if not moments.count or moments.skipped:
            notes.append(f"no bridge over {one.span[0]}: losses are not finite")
            continue
        gain = t_interval(moments, confidence=confidence)
        if gain.high < 0:
            kept.append(one)
        else:
            notes.append(
                f"no bridge over {one.span[0]}: it changes the loss by {gain.mean:.3g} "
                f"({gain.low:.3g} to {gain.high:.3g})"
            )
    return kept, notes


def edits(judge: Judge, removed: frozenset[str], bridged: Sequence[Bridged]) -> Mapping[str, Edit]:
    """Returns the edits that take units out, with bridges in the place of some."""
    found = judge.without(removed)
    for one in bridged:
        found[one.span[0]] = _stand_in(one.bridge)
    return found


def _stand_in(bridge: Bridge) -> Edit:
    return Edit(lambda x, y: bridge(x))


def _dtype(subject: Subject, span: Span) -> torch.dtype:
    module = subject.module(subject.units[span[0]])
    floats = (p.dtype for p in module.parameters() if p.is_floating_point())
    return next(floats, torch.get_default_dtype())


def _ends(
    subject: Subject, replay: Replay, span: Span
) -> tuple[Tensor, Tensor, Tensor | None, int] | str:
    """What goes into a span and comes out, ``[N, T, D]``, which is real, and where features are."""
    first, last = subject.units[span[0]], subject.units[span[-1]]
    if not (replay.ran(first) and replay.ran(last)):
        return "it did not run"
    x, y = replay.x(first), replay.y(last)
    samples = len(replay.losses)
    rows = [samples_first(subject, unit, t, samples) for unit, t in ((first, x), (last, y))]
    if x.shape != y.shape or rows[0] is None or rows[1] is None:
        return "samples cannot be told apart in its stream"
    before, after = (tokens(subject, last, row) for row in (rows[0], rows[1]))
    dim = channel_dim(subject, last, y)
    dim = -1 if dim == y.ndim - 1 else dim
    mask = known_tokens(subject, last, replay.batch, after)
    return before, after, mask, dim
