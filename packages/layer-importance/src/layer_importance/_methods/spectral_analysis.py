"""Along how many directions a unit changes its stream, and the spectra of its weights."""

from functools import partial
from typing import Any, ClassVar

import torch

from layer_importance._branch import branch, rows
from layer_importance._comoments import Comoments
from layer_importance._events import UnitEvent
from layer_importance._keyed import KeyedMethod, Kinds
from layer_importance._moments import Moments
from layer_importance._scores import Direction, MethodScores, Score
from layer_importance._spectra import (
    Spectrum,
    above_chance,
    effective_rank,
    power_law,
    spectrum,
    stable_rank,
)
from layer_importance._subject import Subject
from layer_importance._weights import matrices


class SpectralAnalysis(KeyedMethod):
    """Effective rank of what a unit adds: ``exp(H(p))``, ``p_i = s_i / sum s``.

    ``s_i^2`` are the eigenvalues of the covariance of ``f = y - x`` over real tokens: 0 if the unit
    adds nothing or the same everywhere, at most the width of the stream. It counts directions, not
    sizes: little in many directions scores above much in few, so that it is a diagnostic. The
    standard error cannot be known from a covariance.

    Columns of the weights alone, means over the unit's matrices (convolutions as ``[c_out, c_in k
    k]``): ``weight_rank`` and ``stable_rank``, as shares of the smaller side; ``alpha``, the
    exponent of the upper tail of the squared singular values (2 to 4 in layers that are said to be
    well trained, larger for random ones); ``spikes``, the share of singular values above what
    independent entries of the same size have; ``weight_norm``, the norm of all of them. A block
    whose last matrix is zero may have any of them.

    Source: effective rank: Roy and Vetterli, EUSIPCO 2007; of activations: Garrido et al., RankMe,
    arXiv 2210.02885; alpha: Martin and Mahoney, arXiv 1810.01075; layer by layer: Lu et al.,
    AlphaPruning, arXiv 2410.10912.

    Args:
        max_width: what wider units add is left out.
        exact: weights whose smaller side is longer have the leading part of their spectrum alone.
    """

    name = "spectral_analysis"
    measure = "directions"
    direction: ClassVar[Direction] = "diagnostic"
    kinds: ClassVar[Kinds] = {"added": Comoments, "samples": Moments}

    def __init__(self, *, max_width: int = 1024, exact: int = 1024) -> None:
        super().__init__()
        self.max_width, self.exact = max_width, exact
        self._reasons: dict[str, str] = {}
        self._weights: dict[str, dict[str, float]] = {}

    def begin(self, subject: Subject) -> None:
        """Reads the weights."""
        super().begin(subject)
        columns: dict[str, dict[str, float]] = {}
        for unit in subject.units:
            if unit.path not in columns:
                found = [spectrum(W, exact=self.exact) for _, W in matrices(subject.module(unit))]
                columns[unit.path] = _of_weights(found)
            self._weights[unit.name] = columns[unit.path]

    def before(self, batch: Any) -> None:
        """Nothing of a batch is needed beforehand."""

    def unit(self, event: UnitEvent) -> None:
        """Adds what the unit adds to every token."""
        name = event.unit.name
        if branch(event) is None:
            self._reasons[name] = f"its stream has another shape behind it: {event.unit.reason}"
            return
        added = rows(event, "branch")
        width = added.shape[1]
        if width > self.max_width:
            self._reasons[name] = f"its stream is wider than {self.max_width}: {width}"
            return
        kept = self.kept(name, "added", partial(Comoments, width, width))
        # another method may have it in parts, which cover all tokens unless it left some out
        parts = event.shared.get("added", [])
        if sum(part.count for part in parts) == len(added):
            for part in parts:
                kept.merge(part)
        else:
            kept.add(added, added)
        self.kept(name, "samples", Moments).add(torch.zeros(len(event.x)))

    def scores(self) -> MethodScores:
        """Effective ranks of what is added, and the columns of the weights."""
        counts = self.found("samples")
        scores = {
            name: Score(effective_rank(_of_covariance(moments)), samples=counts[name].count)
            for name, moments in self.found("added").items()
        }
        extras: dict[str, dict[str, float]] = {}
        for name, columns in self._weights.items():
            for column, value in columns.items():
                extras.setdefault(column, {})[name] = value
        return self.result(scores, extras, self._reasons)


def _of_covariance(moments: Comoments) -> Spectrum:
    """Spectrum of the tokens about their mean; none of it if that is rounding of the mean."""
    products = (moments.products + moments.products.T) / 2
    energy, width = float(products.trace()), len(products)
    floor = torch.finfo(torch.float32).eps ** 2 * float(moments.x_mean.square().sum())
    if energy <= floor * moments.count:
        return Spectrum(torch.zeros(width, dtype=torch.float64), 0.0, (width, width))
    values = torch.linalg.eigvalsh(products).flip(0).clamp_min(0).sqrt()
    return Spectrum(values, energy, (width, width))


def _of_weights(found: list[Spectrum]) -> dict[str, float]:
    if not found:
        return {}
    laws = [law for one in found if (law := power_law(one.values.square())) is not None]
    columns = {
        "weight_rank": [effective_rank(one) / one.size for one in found],
        "stable_rank": [stable_rank(one) / one.size for one in found],
        "alpha": [law.alpha for law in laws],
        "spikes": [above_chance(one) / one.size for one in found],
    }
    means = {name: sum(values) / len(values) for name, values in columns.items() if values}
    return {**means, "weight_norm": sum(one.energy for one in found) ** 0.5}
