"""A run of growth, taken and put back: what is trained, and what is known of its growth."""

from dataclasses import replace
from typing import TYPE_CHECKING

from neuro_morph._event import MorphogenesisEvent, standing
from neuro_morph._snapshot import Snapshot

if TYPE_CHECKING:
    from neuro_morph._morpher import Morpher


class RunSnapshot(Snapshot):
    """A :class:`Snapshot` of all that a :class:`Morpher` works on, and of its own state.

    Args:
        morpher: the run.
    """

    def __init__(self, morpher: "Morpher") -> None:
        others = [*morpher.others, *morpher.averages, morpher.slots]
        super().__init__(morpher.model, morpher.optimizers, others)
        self._morpher, self._graph = morpher, morpher._graph
        self._steps, self._spec = morpher.steps, list(morpher.spec.steps)
        self._numbers, self._known = morpher.generator.get_state(), list(morpher.events)

    def restore(self, why: str = "a snapshot was put back") -> None:
        """Puts the run back; what it has grown by since is noted as rolled back."""
        undone = self.grown()
        self.put_back()
        for event in reversed(undone):
            self._morpher.note(_undone(event, why, len(self._morpher.events)))

    def put_back(self) -> None:
        """Puts the run back; its events are left as they are."""
        super().restore()
        morpher = self._morpher
        morpher.spec.steps[:] = self._spec
        morpher.generator.set_state(self._numbers)
        morpher.steps, morpher._graph = self._steps, self._graph

    def grown(self) -> list[MorphogenesisEvent]:
        """Returns the events that the run has grown by since."""
        known = {event.id for event in self._known}
        return [event for event in standing(self._morpher.events) if event.id not in known]


def _undone(event: MorphogenesisEvent, why: str, number: int) -> MorphogenesisEvent:
    return replace(
        event,
        id=number,
        decision="rolled back",
        why_not=why,
        parameters_before=event.parameters_after,
        parameters_after=event.parameters_before,
        flops_before=event.flops_after,
        flops_after=event.flops_before,
        absolute_change=None,
        relative_change=None,
        attributes=tuple((path, name, new, old) for path, name, old, new in event.attributes),
        seconds={},
        parent=event.id,
    )
