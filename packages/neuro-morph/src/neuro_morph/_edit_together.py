"""Several edits that are made together or not at all."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from neuro_morph._arguments import several
from neuro_morph._edit import Edit, Site, Variant
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._undo import whatever_comes

if TYPE_CHECKING:
    from neuro_morph._morpher import Morpher


@dataclass(frozen=True)
class Together:
    """Edits that are made one after another, each checked; if one is refused none is made.

    Args:
        edits: the edits, in order.

    Raises:
        TypeError: for anything else.
        ValueError: if there are none.

    Example:
        >>> import torch
        >>> from neuro_morph import Morpher, Together, Widen
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU()
        ... )
        >>> _ = model.append(torch.nn.Linear(8, 2))
        >>> morpher = Morpher(model, example_inputs=torch.ones(1, 4))
        >>> event = morpher.apply(Together((Widen("0", by=8), Widen("2", by=8))))
        >>> event.target, len(morpher.events), model[2]
        ('0, 2', 2, Linear(in_features=16, out_features=16, bias=True))
    """

    edits: tuple[Edit, ...]
    op: str = field(default="together", init=False)

    def __post_init__(self) -> None:
        held = several("edits", self.edits, lambda one: isinstance(one, Edit), "a list of edits")
        object.__setattr__(self, "edits", tuple(held))
        if not self.edits:
            raise ValueError("edits must hold at least one edit")

    @property
    def target(self) -> str:
        """The targets of all of them."""
        return ", ".join(edit.target for edit in self.edits)

    def detail(self) -> dict[str, Any]:
        """Returns the settings of all of them, as JSON can hold them."""
        return {
            "edits": [{"op": e.op, "target": e.target, "detail": e.detail()} for e in self.edits]
        }

    def variants(self, site: Site) -> Iterator[Variant]:
        """Yields nothing: a :class:`Morpher` carries the edits out one by one."""
        return iter(())


def carry_out_together(
    morpher: "Morpher", edit: Together, reason: str, gain: float | None
) -> MorphogenesisEvent:
    """Makes all edits of one; returns an event of the whole, which the run does not note.

    The run notes an event for each; where one is refused, that one alone.

    Raises:
        GrowthRefusedError: if one cannot be made; the run is then as it was, bit for bit, and so
            it is whatever else one raises.
    """
    _ = morpher.graph  # what is found now is there again if nothing is made
    snapshot, first = morpher.snapshot(), len(morpher.events)
    log, morpher._log = morpher._log, None
    try:
        done = [morpher.apply(each, reason=reason) for each in edit.edits]
        whole = replace(_whole(edit, done), gain=gain)
        morpher._log = log
        morpher._write(*morpher.events[first:])
    except BaseException:
        morpher._log = log
        whatever_comes(snapshot.put_back)
        refused = [e for e in morpher.events[first:] if e.decision == "refused"]
        morpher.events[first:] = [replace(e, id=first + k) for k, e in enumerate(refused)]
        if refused:
            morpher._write(*morpher.events[first:])
        raise
    return whole


def _whole(edit: Together, done: list[MorphogenesisEvent]) -> MorphogenesisEvent:
    return replace(
        done[-1],
        op=edit.op,
        target=edit.target,
        detail=edit.detail(),
        parameters_before=done[0].parameters_before,
        flops_before=done[0].flops_before,
        absolute_change=max(e.absolute_change or 0.0 for e in done),
        relative_change=max(e.relative_change or 0.0 for e in done),
        attributes=tuple(found for e in done for found in e.attributes),
        note="; ".join(e.note for e in done if e.note) or None,
    )
