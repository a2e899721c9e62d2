"""What patching each unit would bring back, to first order, for all units at once."""

from collections.abc import Callable
from dataclasses import replace

import torch

from layer_importance._batch import size
from layer_importance._corruptions import Corruption, usual
from layer_importance._differences import Differences
from layer_importance._edits import branch
from layer_importance._method import PassMethod
from layer_importance._patching import known_in_both, pairs, unlike
from layer_importance._scores import MethodScores, Score
from layer_importance._streams import samples_first
from layer_importance._subject import Subject


class AttributionPatching(PassMethod):
    """Mean size of ``q = <dL/dy, f_corrupted - f_clean>``, at the corrupted run, per sample.

    ``f`` is the unit's branch. To first order ``q`` is what :class:`CausalAnalysis` measures; where
    the loss is linear in the branch, exactly. Its mean with its sign is beside it as ``signed``.
    Two forward passes and one backward pass give all units.

    Args:
        corruption: how inputs are spoiled: as their modality says, if not given, else by another
            sample of the batch.

    Source: Syed et al., arXiv 2310.10348, eq. 2; Kramár et al., arXiv 2403.00745, eq. 4, on what
    saturates and cancels.
    """

    name = "attribution_patching"
    shares = True
    measure = "nats"
    needs = frozenset({"data", "labels", "gradients"})

    def __init__(self, *, corruption: Corruption | None = None) -> None:
        self.corruption = corruption

    def passes(self, units: int) -> tuple[float, float]:
        """A clean run, a corrupted one, and its gradients."""
        del units
        return 2.0, 1.0

    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """Compares the two runs of every batch along the gradient."""
        sizes, signed = Differences(), Differences()
        corruption, how = (self.corruption, "given") if self.corruption else usual(subject)
        for clean, corrupt in pairs(subject, corruption, self.name, progress, gradients=True):
            for unit in subject.units:
                if reason := unlike(unit, clean, corrupt):
                    sizes.refused[unit.name] = reason
                    continue
                spoiled, whole = (branch(unit, r.x(unit), r.y(unit)) for r in (corrupt, clean))
                products = corrupt.gradient(unit).double() * (spoiled.double() - whole.double())
                known = known_in_both(unit, corrupt, clean)
                if known is not None:
                    products = torch.where(known, products, torch.zeros_like(products))
                rows = samples_first(subject, unit, products, size(clean.batch))
                if rows is None:
                    sizes.refused[unit.name] = "samples cannot be told apart in its stream"
                    continue
                change = rows.flatten(1).sum(1)
                sizes.add(unit, change.abs())
                signed.add(unit, change)
        sizes, signed = (kept.gathered(subject.share) for kept in (sizes, signed))
        scores = {name: Score.of(moments) for name, moments in sizes.whole().items()}
        extras = {"signed": {name: float(signed.moments[name].mean) for name in scores}}
        found = self.result(scores, extras, sizes.missing())
        notes = dict.fromkeys(found, f"corruption: {how}")
        measure = subject.task.measure
        return replace(found, measure=measure, forwards=2.0, backwards=1.0, notes=notes)
