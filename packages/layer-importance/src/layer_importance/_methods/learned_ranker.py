"""What other models taught about the scores of cheap methods, as one ranking."""

from collections.abc import Callable
from math import nan

from layer_importance._method import Method, PassMethod, SweepMethod
from layer_importance._methods import BUILT_IN
from layer_importance._ranker import Ranker, shipped
from layer_importance._scores import MethodScores, Score
from layer_importance._subject import Subject
from layer_importance._sweep import Sweep
from layer_importance._validity import Values, values_of


class LearnedRanker(PassMethod):
    """``1/2 + sum_m c_m (r_m - 1/2)`` with ranks ``r_m`` by cheap methods, 0 to 1.

    The weights ``c`` are a ridge regression from ranks of scores, of place and of the share of the
    parameters to the rank of the damage of leaving a unit out, over models whose damages were
    measured. About 0: expected to be the least important of the model's units; values compare units
    of one model only. It is switched off, and says so, unless it ranked models held out better than
    the best single method.

    Args:
        ranker: the weights; those that come with the package if not given.

    Source: Wolpert, Stacked generalization (1992).
    """

    name = "learned_ranker"
    needs = frozenset({"data", "labels", "gradients"})

    def __init__(self, ranker: Ranker | None = None) -> None:
        self.ranker = shipped() if ranker is None else ranker

    def unmet(self, subject: Subject) -> str:
        """Needs a ranker that is worth it, and half of the methods it reads."""
        if why := self.ranker.refusal or super().unmet(subject):
            return why
        names = {method.name for method in self._methods(subject)}
        if 2 * len(names) < len(self.ranker.methods):
            missing = sorted(set(self.ranker.methods) - names)
            return f"needs half of its methods, and cannot run {', '.join(missing)}"
        return ""

    def passes(self, units: int) -> tuple[float, float]:
        """One sweep of its own, and what its methods need beside it."""
        own = [m.passes(units) for m in _read(self.ranker)]
        backwards = 1.0 + any("sampled" in m.needs for m in _read(self.ranker))
        return 1.0 + sum(f for f, _ in own), backwards + sum(b for _, b in own)

    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """Runs the methods, those that share a sweep in one."""
        found = self._scores(subject, progress)
        names = subject.units.names
        shares = {unit.name: float(unit.parameters) for unit in subject.units}
        samples = max((s.samples for one in found.values() for s in one.values()), default=0)
        values: dict[str, Values] = {name: values_of(one) for name, one in found.items()}
        estimates = self.ranker.estimate(names, values, shares)
        return self.result({n: Score(v, nan, samples) for n, v in estimates.items()})

    def _scores(
        self, subject: Subject, progress: Callable[[str, int], None]
    ) -> dict[str, MethodScores]:
        methods = self._methods(subject)
        heard = [method for method in methods if isinstance(method, SweepMethod)]
        for method in heard:
            method.begin(subject)
        sweep = Sweep(subject, heard)
        with sweep:
            for batch in subject.batches():
                sweep.run(batch)
                progress(self.name, sweep.batches)
        alone = [method for method in methods if isinstance(method, PassMethod)]
        return {m.name: m.scores() for m in heard} | {
            m.name: m.run(subject, progress) for m in alone
        }

    def _methods(self, subject: Subject) -> list[Method]:
        return [method for method in _read(self.ranker) if not method.unmet(subject)]


def _read(ranker: Ranker) -> list[Method]:
    """The methods that a ranker reads, as far as they come with the package."""
    return [method() for method in BUILT_IN if method.name in ranker.methods]
