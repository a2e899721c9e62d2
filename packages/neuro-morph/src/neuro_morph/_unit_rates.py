"""Learning rates of some units of a group."""

from collections.abc import Iterable

import torch
from torch import nn

from neuro_morph._arguments import check_kind
from neuro_morph._entries import entries_of
from neuro_morph._morpher import Morpher
from neuro_morph._widening import tensors_of


def set_unit_rates(morpher: Morpher, group: str, units: Iterable[int], rate: float) -> None:
    """Lets units make ``rate`` times their steps: rows, columns and what stands beside them.

    Optimizers, schedules and weight decay stay as they are; the step that comes out is multiplied.
    It holds, also while the group grows on, until the rates are set anew or
    :meth:`Morpher.release`.

    Args:
        morpher: the run, with its optimizers.
        group: the group's id.
        units: which of its units, counted from 0; new ones stand behind old ones.
        rate: 0 for none, 1 for all of a step.

    Raises:
        KeyError: if there is no such group.
        ValueError: if a unit is not there, or ``rate`` is negative or not finite.

    Example:
        >>> import torch
        >>> from neuro_morph import Morpher, Widen, set_unit_rates
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> morpher = Morpher(model, optimizer, example_inputs=torch.ones(1, 4))
        >>> _ = morpher.apply(Widen("0", by=2))
        >>> set_unit_rates(morpher, "0", range(8, 10), 2.0)  # new units learn twice as fast
    """
    check_kind(Morpher, morpher=morpher)
    found, chosen = morpher.graph[group], torch.tensor(sorted(set(units)), dtype=torch.long)
    if len(chosen) and not 0 <= int(chosen[0]) <= int(chosen[-1]) < found.size:
        raise ValueError(f"units must be from 0 to {found.size - 1}, got {chosen.tolist()}")
    held = tensors_of(morpher.model)
    for member in found.members:
        tensor, unit = held[member.name], entries_of(member.axis, found.atom, found.size)[1]
        if isinstance(tensor, nn.Parameter):
            entries = torch.isin(torch.from_numpy(unit), chosen).nonzero().flatten()
            morpher.slots.set_rate(tensor, entries, member.dim, rate)
