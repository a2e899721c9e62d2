"""Chains by structure alone: runs of siblings that hold weights."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

_CONTAINERS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


@dataclass(frozen=True, slots=True)
class Run:
    """Sibling modules that may run one after another.

    Attributes:
        container: path of what holds them.
        paths: where they are, in the order they are held.
    """

    container: str
    paths: tuple[str, ...]


def runs(
    model: nn.Module, is_block: Callable[[str, frozenset[str]], bool] | None = None
) -> list[Run]:
    """Returns the runs of composites in a model, the finest that are still repeated blocks.

    A composite holds at least two modules with parameters of their own. Siblings in a
    ``ModuleList``, ``Sequential`` or ``ModuleDict``, or in numbered attributes (``layer1``,
    ``layer2``), make a run. A run of stages gives way to the runs inside them where modules of one
    class hold at least half of a stage's weights; ``is_block(path, inner)`` says that the module
    at ``path`` is more than a sequence of ``inner``, such as one with a skip around them.
    """
    return list(_runs(model, "", is_block or (lambda path, inner: False)))


def leaves(model: nn.Module) -> Run:
    """Returns all linear and convolution layers: the units of a net without blocks."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return Run("", tuple(path for path, m in model.named_modules() if isinstance(m, kinds)))


def weight(module: nn.Module) -> int:
    """Returns the number of parameters; a shared one counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


_IsBlock = Callable[[str, frozenset[str]], bool]


def _runs(module: nn.Module, path: str, is_block: _IsBlock) -> Iterator[Run]:
    taken: set[str] = set()
    for names in _sibling_groups(module):
        if len(names) >= 2:
            taken.update(names)
            yield from _finest(module, path, names, is_block)
    for name, child in module._modules.items():
        if child is not None and name not in taken:
            yield from _runs(child, _join(path, name), is_block)


def _finest(module: nn.Module, path: str, names: list[str], is_block: _IsBlock) -> list[Run]:
    """The run itself, or the runs inside if most of its weights are in repeated blocks."""
    inner: list[Run] = []
    total = inside = blocks = 0
    for name in names:
        child, place = module._modules[name], _join(path, name)
        assert child is not None
        found = [run for run in _runs(child, place, is_block) if _same_class(child, place, run)]
        held = weight(child)
        total += held
        if found and 2 * _held(child, place, found) >= held:
            inner.extend(found)
            inside += held
            blocks += is_block(place, frozenset(p for run in found for p in run.paths))
    if inner and 2 * inside >= total and 2 * blocks < len(names):
        return inner
    return [Run(path, tuple(_join(path, name) for name in names))]


def _same_class(child: nn.Module, path: str, run: Run) -> bool:
    prefix = path + "."
    return len({type(child.get_submodule(p.removeprefix(prefix))) for p in run.paths}) == 1


def _held(child: nn.Module, path: str, found: list[Run]) -> int:
    prefix = path + "."
    return sum(weight(child.get_submodule(p.removeprefix(prefix))) for r in found for p in r.paths)


def _sibling_groups(module: nn.Module) -> list[list[str]]:
    composites = [n for n, m in module._modules.items() if m is not None and _is_composite(m)]
    if isinstance(module, _CONTAINERS):
        return [composites]
    numbered: dict[str, list[str]] = {}
    for name in composites:
        if match := re.fullmatch(r"(.*?)_?(\d+)", name):
            numbered.setdefault(match[1], []).append(name)
    return list(numbered.values())


def _is_composite(module: nn.Module) -> bool:
    owners = sum(any(True for _ in m.parameters(recurse=False)) for m in module.modules())
    return owners >= 2


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
