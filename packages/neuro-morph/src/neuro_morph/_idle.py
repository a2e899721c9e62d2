"""Parameters that a run never reached: experts without a token, heads that only train."""

from collections.abc import Iterable

from neuro_morph._axes import size_of
from neuro_morph._groups import GrowthGroup
from neuro_morph._program import Program

Shape = tuple[int, ...]


def idle_in(program: Program, unused: Iterable[str] = ()) -> dict[str, Shape]:
    """Returns the shapes of the parameters that no operation was given, by name.

    Args:
        program: a run.
        unused: parameters, or modules with all of theirs, that are left out: the model never
            reaches them.

    Raises:
        ValueError: if one of ``unused`` is no parameter, nor a module that has any.
    """
    reached = {ref.index for call in program.calls for ref in call.inputs()}
    reached |= {ref.index for _, ref in program.outputs}
    names = {name: index for index, name in program.parameters.items()}
    used = {name for index, name in program.parameters.items() if index in reached}
    left: set[str] = set()
    for wanted in unused:
        mine = {name for name in names if name == wanted or name.startswith(f"{wanted}.")}
        if not mine:
            raise ValueError(f"unused must name parameters or modules with some, got {wanted!r}")
        left |= mine
    return {name: program.shapes[names[name]] for name in names.keys() - used - left}


def reason_of(group: GrowthGroup, idle: dict[str, Shape]) -> str | None:
    """Returns why a group must not grow while some parameters are not known, None if it may."""
    sizes = {group.size, *(size_of(member.axis) for member in group.members)}
    for name, shape in sorted(idle.items()):
        kernel = len(shape) > 2 and name.rpartition(".")[2] == "weight"
        found = sizes & set(shape[:2] if kernel else shape)
        if found:
            return (
                f"{name!r} was not used on the example inputs and has an axis of {min(found)} that "
                "may have to grow with it: give inputs that reach it, or name it in unused=(...)"
            )
    return None
