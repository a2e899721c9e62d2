"""What happened when a network grew, or did not."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class MorphogenesisEvent:
    """One edit of a network: what was done, why, and what was measured.

    Attributes:
        id: its number in the run.
        step: the training step it happened at.
        op: the kind of edit, ``"widen"`` and so on.
        target: what was edited: a group or a layer.
        detail: the edit's settings.
        reason: why it was tried.
        decision: ``"committed"``, ``"refused"`` or ``"rolled back"``.
        why_not: the reason if it was refused or rolled back.
        parameters_before: parameters counted before.
        parameters_after: parameters counted afterwards.
        flops_before: floating point operations of a run on the example inputs, before.
        flops_after: the same afterwards.
        absolute_change: the largest change of an output on the example inputs.
        relative_change: the same over the largest output.
        attributes: numbers of modules that were changed: path, name, old, new.
        seconds: seconds by part of the work.
        gain: what the edit was found to gain, if that was measured.
        parent: the event that this one undid.
        note: what is worth knowing of an edit though it was made: that its new units are frozen,
            that a connection has a smaller rank than was asked for, or that a new layer is exact
            in evaluation mode only.
    """

    id: int
    step: int
    op: str
    target: str
    detail: dict[str, Any]
    reason: str
    decision: str
    why_not: str | None
    parameters_before: int
    parameters_after: int
    flops_before: int
    flops_after: int
    absolute_change: float | None
    relative_change: float | None
    attributes: tuple[tuple[str, str, Any, Any], ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    gain: float | None = None
    parent: int | None = None
    note: str | None = None

    @property
    def parameters_added(self) -> int:
        """The parameters it added."""
        return self.parameters_after - self.parameters_before

    def to_json(self) -> str:
        """Returns the event as one line of JSON; what that cannot hold, as text."""
        return json.dumps(asdict(self), ensure_ascii=False, default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Returns the event of a line of :meth:`to_json`."""
        held = json.loads(text)
        return cls(**{**held, "attributes": tuple(tuple(each) for each in held["attributes"])})


def standing(events: Iterable[MorphogenesisEvent]) -> list[MorphogenesisEvent]:
    """Returns the events of growth that is there: committed, and not rolled back since.

    Example:
        >>> import torch
        >>> from neuro_morph import Morpher, Widen, standing
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> morpher = Morpher(model, example_inputs=torch.ones(1, 4))
        >>> before = morpher.snapshot()
        >>> _ = morpher.apply(Widen("0", by=2))
        >>> len(standing(morpher.events))
        1
        >>> before.restore()
        >>> len(standing(morpher.events)), [event.decision for event in morpher.events]
        (0, ['committed', 'rolled back'])
    """
    events = list(events)
    undone = {event.parent for event in events if event.decision == "rolled back"}
    return [e for e in events if e.decision == "committed" and e.id not in undone]
