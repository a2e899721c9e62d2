"""What can be scored and removed: units, in chains, in towers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, overload

Removal = Literal["identity", "zero"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """One part of a model that can be scored, and perhaps removed.

    Attributes:
        name: what it is called everywhere: the module's path, with ``#call`` for one of several
            calls of the same module.
        path: where the module is, as ``model.get_submodule`` reads it.
        chain: path of the container that runs it.
        index: place in its chain, from 0.
        tower: the chains that belong together, such as ``encoder``; stages of one tower share it.
        type_name: class of the module.
        parameters: number of parameters; a shared one counts where it comes first.
        call: which call of the module in one forward this is; ``None`` if it is its only one.
        kind: ``block`` or ``leaf``; of a block's branches ``attention``, ``mlp``, or ``branch``
            for one with convolutions.
        removal: what stands in for it: ``identity`` hands the input on, ``zero`` adds nothing to
            the stream (for a branch whose output the parent adds).
        reason: why it cannot be removed so; empty if it can.
    """

    name: str
    path: str
    chain: str
    index: int
    tower: str
    type_name: str
    parameters: int
    call: int | None = None
    kind: str = "block"
    removal: Removal = "identity"
    reason: str = ""

    @property
    def removable(self) -> bool:
        """Whether something of the same shape can stand in for it."""
        return not self.reason


@dataclass(frozen=True, slots=True)
class Units(Sequence[Unit]):
    """The units of a model, in order of execution.

    Indexed by position or name. ``refused`` maps what was looked at and left out to its reason.
    """

    members: tuple[Unit, ...]
    refused: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @overload
    def __getitem__(self, key: int | str) -> Unit: ...
    @overload
    def __getitem__(self, key: slice) -> "Units": ...
    def __getitem__(self, key: int | str | slice) -> "Unit | Units":
        if isinstance(key, slice):
            return Units(self.members[key], self.refused)
        if isinstance(key, int):
            return self.members[key]
        for unit in self.members:
            if unit.name == key:
                return unit
        raise KeyError(f"no unit {key!r}; there are {', '.join(self.names[:6])}...")

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Unit]:
        return iter(self.members)

    def __contains__(self, key: object) -> bool:
        return key in self.members or key in self.names

    @property
    def names(self) -> list[str]:
        """Names, in order."""
        return [unit.name for unit in self.members]

    @property
    def removable(self) -> "Units":
        """Those that can be removed."""
        return Units(tuple(unit for unit in self.members if unit.removable), self.refused)

    @property
    def chains(self) -> dict[str, list[Unit]]:
        """Units by chain, in order."""
        return _grouped(self.members, "chain")

    @property
    def towers(self) -> dict[str, list[Unit]]:
        """Units by tower, in order."""
        return _grouped(self.members, "tower")


def _grouped(units: Sequence[Unit], by: str) -> dict[str, list[Unit]]:
    groups: dict[str, list[Unit]] = {}
    for unit in units:
        groups.setdefault(getattr(unit, by), []).append(unit)
    return groups
