"""How much of a unit no affine map of its input can do."""

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from layer_importance._branch import branch, rows
from layer_importance._bridge import Bridge, BridgeMoments
from layer_importance._comoments import Comoments, wide
from layer_importance._events import BatchEvent, UnitEvent
from layer_importance._keyed import KeyedMethod, Kinds
from layer_importance._moments import Moments
from layer_importance._scores import MethodScores, Score, Table

Span = tuple[str, str]


class Bridgeability(KeyedMethod):
    """Share of what comes out that no affine map of the input gives, ``1 - R^2`` of ``x -> y``.

    ``E |y - fit(x)|^2 / E |y - E y|^2`` over real tokens, on samples that the map was not fitted
    on: half of them, drawn by content, serve for the other half and the other way round. 0 means
    that a bridge can stand in for the unit exactly (a linear unit, a constant one, one that does
    nothing), 1 that no affine map knows anything about what comes out; above 1 there were too few
    tokens to fit. The standard error is that of the two halves, a rough one. ``change_left`` is the
    same share of the change ``f = y - x`` alone, ``E |f - fit(x)|^2 / E |f - E f|^2``: it is blind
    to how small the change is, and so no measure of importance.

    Spans of several units are held beside them: the table ``span_left`` has ``1 - R^2`` from what
    goes into the first (row) to what comes out of the last (column). :meth:`bridge` gives the
    bridge itself, fitted on all samples.

    Source: linear stand-ins for blocks: Shopkhoev et al., ReplaceMe, arXiv 2505.02819.

    Args:
        spans: first and last unit of each span beyond the units themselves.
        ridge: the penalty, as for :meth:`BridgeMoments.solve`.
        max_width: units with a wider stream are left out.
    """

    name = "bridgeability"
    kinds: ClassVar[Kinds] = {"even": BridgeMoments, "odd": BridgeMoments, "samples": Moments}

    def __init__(
        self, *, spans: Iterable[Span] = (), ridge: float = 1e-4, max_width: int = 2048
    ) -> None:
        super().__init__()
        if not ridge >= 0:
            raise ValueError(f"ridge must be at least 0, got {ridge}")
        self.spans = tuple((first, last) for first, last in spans if first != last)
        self.ridge, self.max_width = ridge, max_width
        self._reasons: dict[str, str] = {}
        self._open: dict[str, list[Tensor]] = {}

    def read(self, event: UnitEvent) -> None:
        """Adds the tokens of a batch, and those of the spans that end here."""
        name = event.unit.name
        halves = self._sample_keys % 2 == 0, self._sample_keys % 2 == 1
        x = [rows(event, "x", half) for half in halves]
        for first, last in self.spans:
            if last == name and first in self._open:
                start = self._open[first]
                ends = [rows(event, "y", half) for half in halves]
                if start[0].shape != ends[0].shape:
                    self._reasons[f"{first}>{last}"] = "its ends have different shapes"
                    continue
                pairs = zip(ends, start, strict=True)
                self._add(f"{first}>{last}", start, [wide(y) - wide(x) for y, x in pairs])
        if any(first == name for first, _ in self.spans):
            self._open[name] = x
        if branch(event) is None:
            self._reasons[name] = f"its stream has another shape behind it: {event.unit.reason}"
            return
        added = self._add(name, x, [rows(event, "branch", half) for half in halves])
        event.shared["added"] = added
        self.kept(name, "samples", Moments).add(torch.zeros(len(event.x)))

    def _add(self, key: str, x: list[Tensor], change: list[Tensor]) -> list[Comoments]:
        """Adds tokens to the halves; returns the covariances of the change."""
        width = x[0].shape[1]
        if width > self.max_width:
            self._reasons[key] = f"its stream is wider than {self.max_width}: {width}"
            return []
        return [
            self.kept(key, column, partial(BridgeMoments, width)).added_change(a, f)
            for column, a, f in zip(("even", "odd"), x, change, strict=True)
        ]

    def batch(self, event: BatchEvent) -> None:
        """Forgets where spans began."""
        del event
        self._open.clear()

    def bridge(self, first: str, last: str | None = None, *, channels: int = -1) -> Bridge:
        """Returns the bridge over a unit or a span, fitted on all samples.

        Raises:
            ValueError: if there are no moments of it.
        """
        key = first if last in (None, first) else f"{first}>{last}"
        even, odd = (self.found(column).get(key) for column in ("even", "odd"))
        if even is None or odd is None:
            why = self._reasons.get(key, "it is no unit and no span that was asked for")
            raise ValueError(f"no bridge over {key}: {why}")
        moments = BridgeMoments(even.width)
        moments.merge(even)
        moments.merge(odd)
        return moments.solve(ridge=self.ridge, channels=channels)

    def scores(self) -> MethodScores:
        """Shares left over, of units and of spans."""
        scores: dict[str, Score] = {}
        changes: dict[str, float] = {}
        spans: dict[str, float] = {}
        missing = dict(self._reasons)
        counts, odd = self.found("samples"), self.found("odd")
        for key, even in self.found("even").items():
            if not (even.count and odd[key].count):
                missing[key] = "needs samples in both halves, to fit on one and judge on the other"
                continue
            change, left = _left(even, odd[key], self.ridge)
            if ">" in key:
                spans[key] = float(left.mean())
                continue
            error = abs(float(left[0] - left[1])) / 2
            scores[key] = Score(float(left.mean()), error, counts[key].count)
            changes[key] = float(change.mean())
        return self.result(scores, {"change_left": changes}, missing, self._table(spans))

    def _table(self, spans: dict[str, float]) -> dict[str, Table]:
        if not self.spans:
            return {}
        rows_, columns = (
            tuple(sorted({span[side] for span in self.spans}, key=self._place)) for side in (0, 1)
        )
        values = tuple(tuple(spans.get(f"{a}>{b}", float("nan")) for b in columns) for a in rows_)
        return {"span_left": Table(rows_, columns, values)}

    def _place(self, name: str) -> int:
        return self._names.index(name) if name in self._names else len(self._names)


def _left(even: BridgeMoments, odd: BridgeMoments, ridge: float) -> tuple[Tensor, Tensor]:
    """What each half leaves of the other: as shares of the change and of what comes out."""
    shares = []
    for fit, judge in ((even, odd), (odd, even)):
        residual = judge.residual(fit.solve(ridge=ridge))
        # a change that is constant has nothing that could be left over
        nothing = judge.is_constant or not judge.output_variance > 0
        wholes = (judge.variance, judge.output_variance)
        shares.append([0.0 if nothing else residual / whole for whole in wholes])
    found = torch.tensor(shares, dtype=torch.float64)
    return found[:, 0], found[:, 1]
