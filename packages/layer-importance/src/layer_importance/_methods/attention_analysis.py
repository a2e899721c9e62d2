"""How much the loss depends on each attention head."""

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from layer_importance._events import BatchEvent, InputEvent
from layer_importance._heads import Mixer, mixers
from layer_importance._method import SweepMethod
from layer_importance._moments import Moments, moments_of
from layer_importance._scores import MethodScores, Score, Table
from layer_importance._subject import Subject


class AttentionAnalysis(SweepMethod):
    """Sum over a unit's heads of ``E |dL/dxi_h|``, with a gate ``xi_h = 1`` on each head's output.

    The gate's gradient is ``<a_h, dL/da_h>`` per sample, where ``a_h`` is head ``h``'s part of the
    input of the layer that mixes the heads: two hooks, whatever computes the attention itself. To
    first order it is what the loss would change without the head. 0: no sample's loss depends on
    any head, as where the mixing layer ignores them. ``heads`` is the table of single heads; those
    of several attentions in a unit come one after the other.

    Source: Michel et al., Are sixteen heads really better than one?, arXiv 1905.10650, eq. 2.
    """

    name = "attention_analysis"
    measure = "nats"
    needs = frozenset({"data", "labels", "gradients"})

    def __init__(self) -> None:
        self._mixers: dict[tuple[str, int], Mixer] = {}
        self._axes: dict[str, int] = {}
        self._places: dict[Mixer, int] = {}
        self._counts: dict[str, int] = {}
        self._moments: dict[str, Moments] = {}
        self._sums: dict[str, Tensor] = {}

    def unmet(self, subject: Subject) -> str:
        """Needs attention."""
        if not mixers(subject):
            return "needs attention, and no unit attends"
        return super().unmet(subject)

    def begin(self, subject: Subject) -> None:
        """Finds the layers that mix heads."""
        for mixer in mixers(subject):
            self._mixers[mixer.path, mixer.call] = mixer
            layout = subject.layouts.get(mixer.path) or subject.layouts.get(
                mixer.path.rpartition(".")[0]
            )
            self._axes[mixer.path] = 0 if layout is None else layout.x_axis
            for unit in mixer.units:
                self._places[mixer] = self._counts.get(unit, 0)
                self._counts[unit] = self._places[mixer] + mixer.heads
        for unit, heads in self._counts.items():
            self._moments[unit] = Moments()
            self._moments[f"{unit}/heads"] = Moments((heads,))

    def inputs(self, subject: Subject) -> Iterable[str]:
        """What goes into those layers."""
        return dict.fromkeys(path for path, _ in self._mixers)

    def input(self, event: InputEvent) -> None:
        """Adds the gradients of the gates of one attention."""
        mixer = self._mixers.get((event.path, event.call))
        if mixer is None or self._axes[event.path] < 0:
            return
        axis = self._axes[event.path]
        a, grad = (
            t.movedim(axis, 0).reshape(event.samples, -1, mixer.heads, t.shape[-1] // mixer.heads)
            for t in (event.x, event.grad)
        )
        gates = (a.double() * grad).sum((1, 3)).abs()
        for unit in mixer.units:
            shape = event.samples, self._counts[unit]
            sums = self._sums.setdefault(unit, gates.new_zeros(shape))
            sums[:, self._places[mixer] : self._places[mixer] + mixer.heads] += gates

    def batch(self, event: BatchEvent) -> None:
        """Adds the batch's heads."""
        for unit, heads in self._counts.items():
            gates = self._sums.get(unit)
            if gates is None:  # no gradient came
                gates = torch.zeros(len(event.losses), heads, dtype=torch.float64)
            self._moments[f"{unit}/heads"].add(gates)
            self._moments[unit].add(gates.sum(1))
        self._sums.clear()

    def scores(self) -> MethodScores:
        """Sums over heads, and the heads."""
        scores = {
            unit: Score.of(self._moments[unit])
            for unit in self._counts
            if self._moments[unit].count
        }
        rows, most = tuple(scores), max(self._counts.values(), default=0)
        values = [self._moments[f"{unit}/heads"].mean.tolist() for unit in rows]
        padded = tuple(tuple(v + [math.nan] * (most - len(v))) for v in values)
        table = Table(rows, tuple(f"head {h}" for h in range(most)), padded)
        return self.result(scores, tables={"heads": table})

    def state(self) -> dict[str, Tensor]:
        """Moments of units and of their heads."""
        return {
            f"{key}/{part}": tensor
            for key, moments in self._moments.items()
            for part, tensor in moments.state().items()
        }

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Combines moments."""
        for key, moments in moments_of(state).items():
            self._moments[key].merge(moments)
