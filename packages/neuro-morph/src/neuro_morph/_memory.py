"""Whether what is to be made fits into the memory there is."""

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

from torch import Tensor, nn
from torch.optim import Optimizer

from neuro_morph._errors import GrowthRefusedError
from neuro_morph._groups import GrowthGroup
from neuro_morph._planned import grown
from neuro_morph._widening import tensors_of

_GIB = 2**30
_ENTRY = 48  # bytes for where an entry of an axis comes from and what it is multiplied by
_GROUPS = (  # of processes: where, the limit, what is taken, how names of its parts begin
    ("/sys/fs/cgroup", "memory.max", "memory.current", ""),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
)
_GIVEN_UP = ("active_file", "inactive_file", "slab_reclaimable")  # taken only while nobody asks


def available() -> int | None:
    """Returns the bytes that can be had, swap included; None where nothing tells."""
    left = [_left(Path(folder), *names) for folder, *names in _GROUPS]
    found = [free for free in (_free(), *left) if free is not None]
    return min(found, default=None)


def check_fits(what: str, needed: int) -> None:
    """Raises GrowthRefusedError if so many new bytes are more than there are."""
    free = available()
    if free is not None and needed > free:
        raise GrowthRefusedError(
            f"{what} would take {needed / _GIB:.3g} GiB of memory, {free / _GIB:.3g} GiB are "
            "available"
        )


def bytes_of_growth(
    model: nn.Module, group: GrowthGroup, size: int, optimizers: Sequence[Optimizer]
) -> int:
    """Returns the least bytes of main memory that are taken while a group is widened.

    These are its tensors in their new sizes, beside which the old ones are kept until the edit is
    checked, what optimizers hold for them, and the tables of their axes. What is on other devices
    is left out: there, what does not fit raises an error.
    """
    held, tables = tensors_of(model), 0
    shapes: dict[str, list[int]] = {}
    for member in group.members:
        length = grown(member.axis, group.atom, size)
        shapes.setdefault(member.name, list(held[member.name].shape))[member.dim] = length
        tables += _ENTRY * length
    here = {name: shape for name, shape in shapes.items() if held[name].device.type == "cpu"}
    return tables + sum(prod(s) * _bytes_each(held[n], optimizers) for n, s in here.items())


def _bytes_each(tensor: Tensor, optimizers: Sequence[Optimizer]) -> int:
    """Returns the bytes of one entry, with those of what optimizers hold for it."""
    states = [each for o in optimizers for each in o.state.get(tensor, {}).values()]
    like = [s for s in states if isinstance(s, Tensor) and s.shape == tensor.shape]
    return sum(each.element_size() for each in (tensor, *like))


def _left(folder: Path, limit: str, taken: str, lead: str) -> int | None:
    """Returns what a group of processes can have beyond what it holds, None without a limit."""
    most = _number(folder / limit)
    if most is None:
        return None
    parts = _entries(folder / "memory.stat", None)
    given_up = sum(int(parts.get(f"{lead}{name}", 0)) for name in _GIVEN_UP)
    held = max(0, (_number(folder / taken) or 0) - given_up)
    return max(0, most - held) + _swap(folder)


def _swap(folder: Path) -> int:
    """Returns the bytes of swap that a group of processes can have."""
    free = 1024 * int(_entries(Path("/proc/meminfo"), ":").get("SwapFree", "0").split()[0])
    most = _number(folder / "memory.swap.max")
    if most is None:
        return free
    return max(0, min(free, most - (_number(folder / "memory.swap.current") or 0)))


def _entries(path: Path, between: str | None) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(between, 1) for line in lines)
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def _free() -> int | None:
    held = _entries(Path("/proc/meminfo"), ":")
    try:
        return 1024 * sum(int(held[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max"
        return None
