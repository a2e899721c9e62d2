"""What :class:`DNMFramework` does when it grows: divide, connect, deepen."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from neuro_morph._back_off import BackOff
from neuro_morph._dnm_analyzer import LayerPerformanceAnalyzer
from neuro_morph._dnm_caches import LayerCaches
from neuro_morph._dnm_connections import ConnectionGrowthManager
from neuro_morph._dnm_division import AdaptiveNeuronDivision
from neuro_morph._edit import Edit
from neuro_morph._edit_deepen import Deepen
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._morpher import Morpher

_TURN = 3  # of so many changes the last is a connection


@dataclass
class Grower:
    """Carries out the change that seems to be needed most and can be done.

    Units divide in the group with the highest score. Every third change is a connection; where one
    kind cannot be done the other is tried, and at last another layer behind a rectifier.

    Attributes:
        morpher: the run.
        analyzer: finds the groups that are too small.
        division: divides their units.
        connections: grows connections.
        caches: what is known of the layers.
        back_off: what is not tried again.
    """

    morpher: Morpher
    analyzer: LayerPerformanceAnalyzer
    division: AdaptiveNeuronDivision
    connections: ConnectionGrowthManager
    caches: LayerCaches
    back_off: BackOff

    def grow(self, epoch: int, changes: int, reason: str) -> MorphogenesisEvent | None:
        """Makes one change and returns it, None if none can be made.

        Args:
            epoch: the epoch.
            changes: how many have been made before.
            reason: why.
        """
        kinds: list[Callable[[], Iterator[Edit]]] = [self._divisions, self._connections]
        if changes % _TURN == _TURN - 1:
            kinds.reverse()
        for kind in (*kinds, self._layers):
            for edit in kind():
                if not self.back_off.allows(edit.op, edit.target, epoch):
                    continue
                try:
                    return self.morpher.apply(edit, reason=reason)
                except GrowthRefusedError:
                    continue  # it is among the run's events, with its reason
        return None

    def _divisions(self) -> Iterator[Edit]:
        morpher = self.morpher
        held = self.analyzer.measure(morpher.model, morpher.graph, morpher.inputs, self.caches)
        for group in self.analyzer.scores(held):
            if self.division.able(morpher.graph, group):
                yield self.division.edit(held[group])

    def _connections(self) -> Iterator[Edit]:
        for score in self.connections.scores(self.morpher, self.caches):
            yield self.connections.edit(score)

    def _layers(self) -> Iterator[Edit]:
        for path in self.caches.activations:
            yield Deepen(path, block="identity")
