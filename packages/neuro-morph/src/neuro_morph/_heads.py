"""The groups of heads of a model, and the numbers of heads that its modules hold."""

import re

from torch import nn

from neuro_morph._attributes import AttributeEdit
from neuro_morph._axes import Atom, Axis, atoms_of, size_of
from neuro_morph._entries import entries_of
from neuro_morph._graph import GrowthGraph
from neuro_morph._groups import GrowthGroup
from neuro_morph._program import Call

_COUNTS = re.compile(r"(?!.*(dim|size|per)).*heads?")  # num_heads, n_head, num_attention_heads, ...


def heads_in(graph: GrowthGraph, path: str | None) -> list[GrowthGroup]:
    """Returns the groups of heads of the attention in a module; of all attention for None."""
    calls = [call for call in _attention(graph) if path is None or _inside(call, path)]
    atoms: dict[Atom, None] = {}
    for call in calls:
        for axis in _head_axes(graph, call):
            atoms.update(dict.fromkeys(atoms_of(axis)))
    return [group for group in graph if group.atom in atoms]


def attention_in(graph: GrowthGraph, group: GrowthGroup | None = None) -> list[str]:
    """Returns the innermost modules in which attention is computed, that of a group's heads."""
    found = [call.path[-1] for call in _attention(graph) if _has(graph, call, group)]
    return list(dict.fromkeys(path for path in found if path))


def head_numbers(
    model: nn.Module, graph: GrowthGraph, group: GrowthGroup, size: int
) -> list[AttributeEdit]:
    """Returns the numbers of heads, by their names, that modules hold of a group that grows.

    For each attention they are those of the innermost module around it that holds any.

    Args:
        model: the model.
        graph: its growth graph.
        group: what grows.
        size: how many units it will have.
    """
    found: dict[tuple[str, str], AttributeEdit] = {}
    for call in _attention(graph):
        became = {group.size: size}
        for axis in _head_axes(graph, call):
            if group.atom in atoms_of(axis):
                became[size_of(axis)] = len(entries_of(axis, group.atom, size)[0])
        for path in reversed(call.path) if _has(graph, call, group) else ():
            held = vars(model.get_submodule(path))
            names = [n for n, v in held.items() if type(v) is int and _COUNTS.fullmatch(n)]
            edits = [
                AttributeEdit(path, n, held[n], became[held[n]]) for n in names if held[n] in became
            ]
            found.update({(edit.path, edit.name): edit for edit in edits})
            if names:
                break
    return list(found.values())


def _attention(graph: GrowthGraph) -> list[Call]:
    """Returns the calls in which scores are normalised."""
    return [
        call
        for call in graph.program.calls
        if "scaled_dot_product" in call.op or call.op in ("softmax", "_softmax")
    ]


def _inside(call: Call, path: str) -> bool:
    """Whether a call is made in a module, or in one that it only holds (``ModuleList``)."""
    return any(each == path or each.startswith(f"{path}.") for each in call.path)


def _head_axes(graph: GrowthGraph, call: Call) -> list[Axis]:
    """Returns the axes along which scores are normalised apart from each other."""
    scores = graph.axes(next(call.inputs()))
    # samples and heads may be on one axis
    return [*scores[1:-2], *(scores[:1] if len(scores) == 3 else ())]


def _has(graph: GrowthGraph, call: Call, group: GrowthGroup | None) -> bool:
    axes = _head_axes(graph, call)
    return group is None or any(group.atom in atoms_of(axis) for axis in axes)
