"""Whether a widened model makes the tensors that were planned, whatever it gives back.

A model may hold a size as a number. If that is left behind, its tensors are laid out otherwise than
planned; on example inputs of one token, say, nothing in its output need show it.
"""

from math import prod

from torch import nn

from neuro_morph._axes import Atom, Axis, Product, Sum, atoms_of, resolve
from neuro_morph._graph import GrowthGraph, record
from neuro_morph._groups import GrowthGroup
from neuro_morph._inputs import ExampleInputs


class NotPlannedError(Exception):
    """A model makes other tensors than those planned."""


def check_sizes(
    model: nn.Module, inputs: ExampleInputs, graph: GrowthGraph, group: GrowthGroup, size: int
) -> None:
    """Raises NotPlannedError if a tensor of the group is not as large as it was planned.

    Only where the model gave a number to an operation that may be the size of one of its axes, and
    was looked at by a run.
    """
    numbers = [n for n in graph.numbers() if n.attribute is None]
    if graph.program.recorded_by != "dispatch" or not any(
        group.atom in atoms_of(n.axis) for n in numbers
    ):
        return
    calls, now = graph.program.calls, record(model, inputs, "dispatch")
    if [call.op for call in calls] != [call.op for call in now.calls]:
        raise NotPlannedError("it runs other operations than before")
    for call, other in zip(calls, now.calls, strict=True):
        for ref, its in zip(call.outputs, other.outputs, strict=True):
            if ref is None or its is None:
                continue
            planned = tuple(grown(axis, group.atom, size) for axis in graph.axes(ref))
            if planned != now.shape(its) and planned != graph.program.shape(ref):
                raise NotPlannedError(f"{call.op} gives {now.shape(its)}, planned was {planned}")


def grown(axis: Axis, atom: Atom, size: int) -> int:
    """Returns the length that an axis has when one of its atoms has another size."""
    axis = resolve(axis)
    if isinstance(axis, Product | Sum):
        parts = [grown(p, atom, size) for p in _parts(axis)]
        return prod(parts) if isinstance(axis, Product) else sum(parts)
    return size if axis is atom else axis.size


def _parts(axis: Product | Sum) -> tuple[Axis, ...]:
    return axis.factors if isinstance(axis, Product) else axis.terms
