"""What a unit's branch alone brings back, and what is lost without it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from layer_importance._corruptions import Corruption, usual
from layer_importance._differences import Differences
from layer_importance._edits import Edit, branch, with_branch
from layer_importance._method import PassMethod
from layer_importance._paired import Ratio
from layer_importance._patching import known_in_both, pairs, unlike
from layer_importance._replay import Replay
from layer_importance._scores import MethodScores, Score
from layer_importance._sharing import totals
from layer_importance._subject import Subject
from layer_importance._units import Unit

Patch = Literal["branch", "stream"]


class CausalAnalysis(PassMethod):
    """Activation patching: ``E[l(corrupted) - l(corrupted, the unit's branch as when clean)]``.

    What the branch brings back of the loss that the corruption costs, in the loss's own unit; 0 for
    a dead branch. Beside it ``necessity``, the dual ``E[l(clean, its branch as in the corrupted
    run) - l(clean)]``; ``total``, what the corruption costs, ``E[l(corrupted) - l(clean)]``; and
    both effects as shares of it, 1 for all, with the error of ``restored_share`` by the delta
    method. Where the loss is linear and branches are parallel, shares add up to 1. The branch is
    patched and not the whole stream, since in a chain any unit's stream brings back everything.
    Tokens that are padding in either run are left alone.

    Args:
        corruption: how inputs are spoiled: ``corruption(batch, generator)`` returns a batch of as
            many samples. As its modality says, if not given, else another sample of the
            batch.
        patch: ``branch``, or ``stream`` for all that the unit hands on.

    Source: Vig et al., arXiv 2004.12265, section 3; Meng et al., arXiv 2202.05262, section 2.1;
    Zhang and Nanda, arXiv 2309.16042.
    """

    name = "causal_analysis"
    shares = True
    measure = "nats"
    needs = frozenset({"data", "labels"})

    def __init__(self, *, corruption: Corruption | None = None, patch: Patch = "branch") -> None:
        if patch not in get_args(Patch):
            raise ValueError(f"patch must be one of {', '.join(get_args(Patch))}, got {patch!r}")
        self.corruption, self.patch = corruption, patch

    def passes(self, units: int) -> tuple[float, float]:
        """Two unchanged runs and, for each unit, half a run in both."""
        return 1.0 + units, 0.0

    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """Patches one unit at a time, both ways."""
        restored, needed, total = Differences(), Differences(), Differences()
        corruption, how = (self.corruption, "given") if self.corruption else usual(subject)
        shares: dict[str, tuple[Ratio, Ratio]] = {}
        executed = length = 0.0
        for clean, corrupt in pairs(subject, corruption, self.name, progress):
            cost = corrupt.losses - clean.losses
            for unit in subject.units:
                if reason := unlike(unit, clean, corrupt):
                    restored.refused[unit.name] = reason
                    continue
                up = corrupt.losses - self._patched(unit, corrupt, clean)
                down = self._patched(unit, clean, corrupt) - clean.losses
                for kept, values in ((restored, up), (needed, down), (total, cost)):
                    kept.add(unit, values)
                ratios = shares.setdefault(unit.name, (Ratio(), Ratio()))
                ratios[0].add(up, cost)
                ratios[1].add(down, cost)
            executed += clean.executed + corrupt.executed
            length += clean.length
        share = subject.share
        restored, needed, total = (kept.gathered(share) for kept in (restored, needed, total))
        for name in restored.moments:
            first, second = shares.get(name, (Ratio(), Ratio()))
            shares[name] = first.gathered(share), second.gathered(share)
        executed, length = totals(share, executed, length)
        forwards = executed / max(length, 1)
        found = self._result(subject, (restored, needed, total), shares, forwards)
        return replace(found, notes=dict.fromkeys(found, f"corruption: {how}"))

    def _patched(self, unit: Unit, into: Replay, source: Replay) -> Tensor:
        """The losses of one run with the unit's branch of the other."""
        if self.patch == "stream":
            whole = source.y(unit)
            return into.losses_with({unit.name: Edit(lambda x, y: whole)})
        added = branch(unit, source.x(unit), source.y(unit))
        known = known_in_both(unit, into, source)

        def change(x: Tensor, y: Tensor) -> Tensor:
            new = with_branch(unit, x, added)
            return new if known is None else torch.where(known, new, y)

        return into.losses_with({unit.name: Edit(change)})

    def _result(
        self,
        subject: Subject,
        effects: tuple[Differences, Differences, Differences],
        shares: dict[str, tuple[Ratio, Ratio]],
        forwards: float,
    ) -> MethodScores:
        restored, needed, total = effects
        whole = {n: m for n, m in restored.whole().items() if n in needed.whole()}
        extras = {
            "necessity": {n: float(needed.moments[n].mean) for n in whole},
            "total": {n: float(total.moments[n].mean) for n in whole},
            "restored_share": {n: shares[n][0].value for n in whole},
            "restored_share_error": {n: shares[n][0].standard_error for n in whole},
            "necessity_share": {n: shares[n][1].value for n in whole},
        }
        missing = needed.missing() | restored.missing()
        found = self.result({n: Score.of(m) for n, m in whole.items()}, extras, missing)
        return replace(found, measure=subject.task.measure, forwards=forwards)
