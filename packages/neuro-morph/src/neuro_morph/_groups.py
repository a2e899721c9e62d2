"""Growth groups: units that have to grow together, and where they live."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from neuro_morph._axes import Atom, Axis, Const, atoms_of, growth_of, resolve
from neuro_morph._entries import entries_of
from neuro_morph._placing import Placing

_LONE = "it is one unit, which cannot be told from an axis that is broadcast"


@dataclass(frozen=True)
class Member:
    """An axis of a parameter or buffer that grows with a group.

    Attributes:
        name: the tensor's name in the model.
        dim: the axis.
        axis: what the axis is made of.
        kinds: what it is there for (see ``Role``).
    """

    name: str
    dim: int
    axis: Axis
    kinds: frozenset[str]


@dataclass(eq=False)
class GrowthGroup:
    """Units of a network that can only grow together.

    Attributes:
        id: the first layer that makes the units, with a number where they are a part of its rows.
        size: how many units there are.
        members: the axes of parameters and buffers that have them.
        unit_cost: parameters that one more unit adds.
        reason: why the group cannot grow, None if it can.
    """

    id: str
    size: int
    members: tuple[Member, ...]
    unit_cost: int
    reason: str | None
    atom: Atom = field(repr=False)

    @property
    def growable(self) -> bool:
        """Whether the group can grow."""
        return self.reason is None

    @property
    def producers(self) -> tuple[str, ...]:
        """The parameters whose rows make the units."""
        return tuple(m.name for m in self.members if "out" in m.kinds)

    @property
    def consumers(self) -> tuple[str, ...]:
        """The parameters whose columns read the units."""
        return tuple(m.name for m in self.members if "in" in m.kinds)

    def parameters(self) -> frozenset[str]:
        """Returns the names of the tensors that have an axis in the group."""
        return frozenset(member.name for member in self.members)


def groups_of(placing: Placing) -> list[GrowthGroup]:
    """Returns the growth groups of a program, in the order their first tensors are registered."""
    found: dict[Atom, list[Member]] = {}
    kinds = _kinds(placing)
    tensors = {**placing.program.parameters, **placing.program.buffers}
    state = {index: name for name, index in {n: i for i, n in tensors.items()}.items()}
    for index, name in state.items():
        for dim, axis in enumerate(placing.values[index].axes):
            for atom in dict.fromkeys(atoms_of(axis)):
                used = frozenset(kinds.get((name, dim, id(atom)), ()))
                found.setdefault(atom, []).append(Member(name, dim, resolve(axis), used))
    shapes = {name: placing.program.shapes[index] for index, name in state.items()}
    buffers = frozenset(placing.program.buffers.values())
    groups = [_group(atom, members, shapes, buffers) for atom, members in found.items()]
    return _named([*groups, *_single(placing, shapes)])


def _single(placing: Placing, shapes: dict[str, tuple[int, ...]]) -> Iterator[GrowthGroup]:
    """Yields groups of one unit: the rows of layers that have one row."""
    read = {role.name for role in placing.roles if role.kind == "in"}
    made = {(r.name, r.dim): r for r in placing.roles if r.kind == "out" and r.name in read}
    for name, dim in made:
        if name in shapes and shapes[name][dim] == 1:
            atom = Atom(1, name, fixed=_LONE)
            member = Member(name, dim, Const(1), frozenset({"out"}))
            yield GrowthGroup("", 1, (member,), _numel(shapes[name]), _LONE, atom)


def _kinds(placing: Placing) -> dict[tuple[str, int, int], set[str]]:
    found: dict[tuple[str, int, int], set[str]] = {}
    for role in placing.roles:
        for atom in atoms_of(role.axis):
            found.setdefault((role.name, role.dim, id(atom)), set()).add(role.kind)
    return found


def _group(
    atom: Atom, members: list[Member], shapes: dict[str, tuple[int, ...]], buffers: frozenset[str]
) -> GrowthGroup:
    reason = atom.fixed or _squared(atom, members) or _unused(members) or _unmade(members)
    cost = unit_cost(atom, [m for m in members if m.name not in buffers], shapes)
    return GrowthGroup("", atom.size, tuple(members), cost, reason, atom)


def unit_cost(atom: Atom, members: Iterable[Member], shapes: dict[str, tuple[int, ...]]) -> int:
    """Returns the number of parameters that one more unit adds."""
    grown: dict[str, list[int]] = {}
    for member in members:
        shape = grown.setdefault(member.name, list(shapes[member.name]))
        shape[member.dim] = len(entries_of(member.axis, atom, atom.size + 1)[0])
    return sum(_numel(shape) - _numel(shapes[name]) for name, shape in grown.items())


def _numel(shape: Iterable[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _squared(atom: Atom, members: list[Member]) -> str | None:
    for member in members:
        if any(term.count(id(atom)) > 1 for term in growth_of(member.axis)):
            return f"{member.name!r} has as many of it as its square"
    return None


def _unused(members: list[Member]) -> str | None:
    idle = [m.name for m in members if not m.kinds]
    return f"it is not known what {idle[0]!r} does with it" if idle else None


def _unmade(members: list[Member]) -> str | None:
    if any(m.kinds & {"out", "shift"} for m in members):
        return None
    return "no layer makes its units"


def _named(groups: list[GrowthGroup]) -> list[GrowthGroup]:
    taken: set[str] = set()
    for group in groups:
        made = [m for m in group.members if "out" in m.kinds] or list(group.members)
        parts = list(dict.fromkeys(atoms_of(made[0].axis)))
        name = made[0].name.removesuffix(".weight")
        if len(parts) > 1 or "out" not in made[0].kinds:
            name = (
                f"{name}.{parts.index(group.atom)}" if len(parts) > 1 else f"{name}[{made[0].dim}]"
            )
        while name in taken:
            name += "'"
        taken.add(name)
        group.id = name
    return groups


def unknown_group(groups: Sequence[GrowthGroup], wanted: str) -> str:
    """Returns what is to be said of a group that is not there: which are, or why none is."""
    parts = [g.reason for g in groups if g.id.startswith((f"{wanted}.", f"{wanted}["))]
    told = Counter(why for why in parts or [g.reason for g in groups] if why).most_common(1)
    why = f": {told[0][0]}" if told else ""
    known = ", ".join(repr(g.id) for g in groups if g.growable)
    if not known:
        return f"group must be one that can grow, and the model has none{why}; got {wanted!r}"
    return f"group must be one of {known}; got {wanted!r}{why if parts else ''}"
