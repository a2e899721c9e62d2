"""Smaller edits where the whole one would overspend a budget."""

from dataclasses import replace

from neuro_morph._arguments import check_kind
from neuro_morph._budget import Budget, Usage
from neuro_morph._edit import Edit
from neuro_morph._edit_together import Together
from neuro_morph._edit_widen import Widen
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._morpher import Morpher
from neuro_morph._trial import trial

_ROUNDS = 6


def fitting(morpher: Morpher, edit: Edit, budget: Budget) -> Edit | None:
    """Returns an edit that a budget allows: itself, or one with fewer units; None if none is.

    Each is tried and counted, and everything is put back bit for bit. Budgets of time are left to
    those who time the run: they are too noisy to be divided.

    Args:
        morpher: the run.
        edit: the edit.
        budget: what the grown network may take.

    Example:
        >>> import torch
        >>> from neuro_morph import Budget, Morpher, Widen, fitting
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> morpher = Morpher(model, example_inputs=torch.ones(1, 4))
        >>> fitting(morpher, Widen("0", by=8), Budget(parameters=80)).by
        3
    """
    check_kind(Morpher, morpher=morpher)
    counted = replace(budget, latency_s=None)
    if counted.parameters is None and counted.flops is None:
        return edit
    before = counted.measure(morpher)
    for _ in range(_ROUNDS):
        after = _usage(morpher, edit, counted)
        if after is None or counted.overspent(after) is None:
            return edit  # what is refused for other reasons is refused by name when it is tried
        smaller = _smaller(edit, before, after, counted)
        if smaller is None:
            return None
        edit = smaller
    return None


def _usage(morpher: Morpher, edit: Edit, budget: Budget) -> Usage | None:
    try:
        with trial(morpher):
            morpher.apply(edit, reason="counted")
            return budget.measure(morpher)
    except GrowthRefusedError:
        return None


def _smaller(edit: Edit, before: Usage, after: Usage, budget: Budget) -> Edit | None:
    """Returns an edit with the part of the units that what is left pays for."""
    parts = [
        (limit - getattr(before, name)) / (getattr(after, name) - getattr(before, name))
        for name in ("parameters", "flops")
        if (limit := getattr(budget, name)) is not None and getattr(after, name) > limit
    ]
    return _part(edit, min(parts)) if parts else None


def _part(edit: Edit, part: float) -> Edit | None:
    """Returns an edit with a part of its units, one less at least; None if there is none."""
    if isinstance(edit, Together):
        smaller = [each for e in edit.edits if (each := _part(e, part)) is not None]
        return Together(tuple(smaller)) if smaller else None
    if not isinstance(edit, Widen) or edit.init.way == "equal":
        return None
    by = min(int(edit.by * part), edit.by - 1)
    return replace(edit, by=by) if by >= 1 else None
