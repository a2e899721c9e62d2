"""Chains by structure alone: runs of siblings that hold weights."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn

from layer_importance._hints import Hints

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


_IsBlock = Callable[[str, frozenset[str]], bool]


def runs(
    model: nn.Module, is_block: _IsBlock | None = None, *, hints: Hints | None = None
) -> list[Run]:
    """Returns the runs of composites in a model, the finest that are still repeated blocks.

    A composite holds at least two modules with parameters of their own. Siblings in a
    ``ModuleList``, ``Sequential`` or ``ModuleDict``, or in numbered attributes (``layer1``,
    ``layer2``), make a run. A run of stages gives way to the runs inside them where modules of one
    class hold at least half of a stage's weights; ``is_block(path, inner)`` says that the module
    at ``path`` is more than a sequence of ``inner``, such as one with a skip around them. Where
    ``hints`` know better they are heard first: the number of layers, then the classes of blocks.
    """
    return list(_Search(is_block or (lambda path, inner: False), hints or Hints()).runs(model, ""))


def leaves(model: nn.Module) -> Run:
    """Returns all linear and convolution layers: the units of a net without blocks."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    found = (p for p, m in model.named_modules() if isinstance(m, kinds) or is_packed(m))
    return Run("", tuple(found))


def weight(module: nn.Module) -> int:
    """Returns the number of parameters; a shared one counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass(frozen=True, slots=True)
class _Search:
    is_block: _IsBlock
    hints: Hints

    def runs(self, module: nn.Module, path: str) -> Iterator[Run]:
        taken: set[str] = set()
        for names in _sibling_groups(module):
            if len(names) >= 2:
                taken.update(names)
                yield from self._finest(module, path, names)
        for name, child in module._modules.items():
            if child is not None and name not in taken:
                yield from self.runs(child, _join(path, name))

    def _finest(self, module: nn.Module, path: str, names: list[str]) -> list[Run]:
        """The run itself, or the runs inside if most of its weights are in repeated blocks."""
        outer = Run(path, tuple(_join(path, name) for name in names))
        children = {_join(path, name): module._modules[name] for name in names}
        inside: dict[str, list[Run]] = {}
        for place, child in children.items():
            assert child is not None
            inside[place] = [r for r in self.runs(child, place) if _same_class(child, place, r)]
        _add_single_blocks(children, inside)
        inner = [run for found in inside.values() for run in found]
        if not inner:
            return [outer]
        if all(_is_list(child) for child in children.values()):  # a list cannot run itself
            return inner
        known = self._known(children, inner)
        return (
            inner if (self._structural(children, inside) if known is None else known) else [outer]
        )

    def _known(self, children: dict[str, nn.Module | None], inner: list[Run]) -> bool | None:
        """Whether hints prefer the runs inside; ``None`` if they say nothing."""
        if tuple(len(run.paths) for run in inner) in self.hints.stages:
            return True
        fits = [run for run in inner if len(run.paths) in self.hints.counts]
        outer_fits, inner_fits = len(children) in self.hints.counts, len(fits) == len(inner)
        if outer_fits != inner_fits:
            return inner_fits
        outer_named = {type(child).__name__ for child in children.values()} <= self.hints.blocks
        return False if outer_named else None

    def _structural(
        self, children: dict[str, nn.Module | None], inside: dict[str, list[Run]]
    ) -> bool:
        """Whether most of the weights are in runs inside, and most children are no blocks."""
        total = within = blocks = 0
        for place, child in children.items():
            assert child is not None
            held, found = weight(child), inside[place]
            total += held
            if found and 2 * _held(child, place, found) >= held:
                within += held
                blocks += self.is_block(place, frozenset(p for run in found for p in run.paths))
        return 2 * within >= total and 2 * blocks < len(children)


def _add_single_blocks(children: dict[str, nn.Module | None], inside: dict[str, list[Run]]) -> None:
    """A stage of one block has it where its siblings have theirs, of the same class."""
    seen = {
        (run.container.removeprefix(place + "."), type(child.get_submodule(_inside(place, run))))
        for place, child in children.items()
        for run in inside[place]
        if child is not None and run.container != place
    }
    for place, child in children.items():
        named = dict(child.named_modules()) if child is not None else {}
        for relative, kind in seen:
            blocks = named[relative]._modules if relative in named else {}
            if len(blocks) == 1 and type(next(iter(blocks.values()))) is kind:
                path = _join(_join(place, relative), next(iter(blocks)))
                others = [run for run in inside[place] if not run.container.startswith(path)]
                inside[place] = [*others, Run(_join(place, relative), (path,))]


def _inside(place: str, run: Run) -> str:
    """Where the first block of a run is in its stage."""
    return run.paths[0].removeprefix(place + ".")


def _is_list(module: nn.Module | None) -> bool:
    return isinstance(module, nn.ModuleList | nn.ModuleDict)


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
    return owners(module) >= 2


def owners(module: nn.Module) -> int:
    """Returns how many modules in it hold weights of their own."""
    return sum(
        is_packed(m) or any(True for _ in m.parameters(recurse=False)) for m in module.modules()
    )


def is_packed(module: nn.Module) -> bool:
    """Whether it is one of torch's quantised layers, whose weights are no parameters."""
    return hasattr(module, "_packed_params") and callable(getattr(module, "weight", None))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
