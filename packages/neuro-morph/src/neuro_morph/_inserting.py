"""Where a new block goes: into the list that holds its neighbour, or behind it by a hook."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from neuro_morph._grafts import holder_of, join_after, new_name, register
from neuro_morph._undo import UndoLog
from neuro_morph._visits import main_tensor, with_main

_LENGTH = re.compile(r"layer|depth|block|stage|^n_h$")
_OWN_INDEX = ("layer_idx", "layer_id", "layer_number")


@dataclass(frozen=True)
class Insertion:
    """Where a block goes.

    Attributes:
        after: the path of the module it follows.
        place: ``"sequential"``, ``"list"`` (both hold that module) or ``"hook"``.
        name: what it is called there.
        counted: whether numbers of layers that modules and their configurations hold follow.
    """

    after: str
    place: str
    name: str
    counted: bool = False


class GrownBlock(nn.Module):
    """A block that follows a module, whatever calls that.

    Args:
        block: what comes behind.
        whole: whether it gets all arguments and gives all results of the module, as a copy of it
            does; else it gets and gives the (first) tensor of the result.
    """

    def __init__(self, block: nn.Module, *, whole: bool = False) -> None:
        super().__init__()
        self.block, self.whole = block, whole

    def follow(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Returns what the block gives for what the module gave."""
        main = main_tensor(output)
        if main is None:
            raise RuntimeError(f"{type(module).__name__} gave no tensor for the block behind it")
        if not self.whole:
            return with_main(output, self.block(main))
        if args:
            return self.block(main, *args[1:], **kwargs)
        first, *_ = kwargs
        return self.block(**{**kwargs, first: main})


def insertions(model: nn.Module, after: str) -> Iterator[Insertion]:
    """Yields where a block can go behind a module, the plainest place first."""
    parent = model.get_submodule(after.rpartition(".")[0]) if after else None
    key = after.rpartition(".")[2]
    if isinstance(parent, nn.Sequential) and type(parent).forward is nn.Sequential.forward:
        yield Insertion(after, "sequential", _behind(parent, key))
    if isinstance(parent, nn.ModuleList):
        yield Insertion(after, "list", str(int(key) + 1), counted=True)
        yield Insertion(after, "list", str(int(key) + 1))
    yield Insertion(after, "hook", new_name(model, holder_of(model, after), "block"))


def insert(
    model: nn.Module, where: Insertion, block: nn.Module, log: UndoLog, *, whole: bool
) -> str:
    """Puts a block in its place and returns its path."""
    if where.place == "hook":
        return _hook(model, where, GrownBlock(block, whole=whole), log)
    path = where.after.rpartition(".")[0]
    parent = model.get_submodule(path)
    if where.place == "list":
        _renumber(parent, int(where.name), log)
        if where.counted:
            _count(model, path, len(parent._modules), int(where.name), log)
    log.set_item(vars(parent), "_modules", _with(parent, where, block))
    if where.place == "list":
        _number(block, int(where.name) - 1, int(where.name), log)
    return f"{path}.{where.name}" if path else where.name


def _hook(model: nn.Module, where: Insertion, part: GrownBlock, log: UndoLog) -> str:
    path = register(model, holder_of(model, where.after), where.name, part, log)
    join_after(model.get_submodule(where.after), f"{where.name}:follow", part.follow, log)
    return path


def _behind(parent: nn.Module, key: str) -> str:
    """Returns a name that leaves those of the other modules as they are."""
    count = len(parent._modules)
    return next(n for n in (f"{key}_{k}" for k in range(1, count + 2)) if n not in parent._modules)


def _with(parent: nn.Module, where: Insertion, block: nn.Module) -> dict[str, Any]:
    """Returns the modules of a container with one more."""
    held = list(parent._modules.items())
    at = [key for key, _ in held].index(where.after.rpartition(".")[2]) + 1
    held.insert(at, (where.name, block))
    if where.place == "list":
        return {str(k): module for k, (_, module) in enumerate(held)}
    return dict(held)


def _renumber(parent: nn.Module, start: int, log: UndoLog) -> None:
    """Tells the layers behind a new one their new numbers."""
    for k, layer in enumerate(parent._modules.values()):
        if k >= start and layer is not None:
            _number(layer, k, k + 1, log)


def _number(layer: nn.Module, old: int, new: int, log: UndoLog) -> None:
    for module in layer.modules():
        for name in _OWN_INDEX:
            if type(vars(module).get(name)) is int and vars(module)[name] == old:
                log.set_attribute(module, name, new)


def _count(model: nn.Module, path: str, length: int, at: int, log: UndoLog) -> None:
    """Makes the numbers of layers that are held around a list one larger."""
    for holder in _holders(model, path):
        for name, value in list(holder.items()):
            if not _LENGTH.search(name) or name.startswith("_"):
                continue
            if type(value) is int and value == length:
                log.set_item(holder, name, length + 1)
            elif isinstance(value, list) and len(value) == length:
                log.set_item(holder, name, [*value[:at], value[at - 1], *value[at:]])


def _holders(model: nn.Module, path: str) -> Iterator[dict[str, Any]]:
    seen: set[int] = set()
    while path:
        path = path.rpartition(".")[0]
        module = model.get_submodule(path)
        config = getattr(module, "config", None)
        for each in (module, config):
            if hasattr(each, "__dict__") and id(each) not in seen:
                seen.add(id(each))
                yield vars(each)
