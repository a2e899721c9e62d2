"""Parts that a model grew: where they are registered, and the hooks that join them in.

A grown part is a module of its own, registered under ``grown``, so that it is in ``state_dict``,
moves with the model and is copied with it. It comes into the forward pass by hooks that are bound
methods of it: a deep copy of the model has hooks of its own copy. The hooks have names, so that
they are found again and never clash with those of others.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from neuro_morph._errors import GrowthRefusedError
from neuro_morph._undo import UndoLog

CONTAINER = "grown"
_PREFIX = "grown:"


class Grown(nn.Module):
    """Holds the parts that a model grew; it computes nothing itself."""

    def names(self) -> list[str]:
        """Returns the names of the parts."""
        return list(self._modules)


def holder_of(model: nn.Module, path: str) -> str:
    """Returns the module that the parts joined at a module are registered in.

    It is the model itself, unless that calls whatever is registered in it (``nn.Sequential``): then
    the module, or the last one in it.
    """
    if not isinstance(model, nn.Sequential | nn.ModuleList):
        return ""
    return last_of(model, path)


def last_of(model: nn.Module, path: str) -> str:
    """Returns the last module of a container, the module itself if it is none."""
    module = model.get_submodule(path)
    while isinstance(module, nn.Sequential | nn.ModuleList) and len(module):
        key = list(module._modules)[-1]
        path = f"{path}.{key}" if path else key
        module = model.get_submodule(path)
    return path


def is_layer(path: str, module: nn.Module) -> bool:
    """Whether a module holds no others and has not grown itself, a connection's matrix say."""
    grown = any(key == CONTAINER for key in path.split("."))
    return not grown and all(isinstance(child, Grown) for child in module.children())


def new_name(model: nn.Module, holder: str, kind: str) -> str:
    """Returns a name for a part, ``block_0``, ``edge_1``, that is not taken anywhere in a model.

    Hooks go by it: two connections from one module must not share theirs.
    """
    container_of(model, holder)
    taken = {name for each in model.modules() if isinstance(each, Grown) for name in each.names()}
    return next(f"{kind}_{k}" for k in range(len(taken) + 1) if f"{kind}_{k}" not in taken)


def container_of(model: nn.Module, holder: str) -> Grown | None:
    """Returns the parts registered in a module, None if it has none.

    Raises:
        GrowthRefusedError: if it has something else of that name.
    """
    held = getattr(model.get_submodule(holder), CONTAINER, None)
    if held is None or isinstance(held, Grown):
        return held
    raise GrowthRefusedError(f"{holder!r} has an attribute {CONTAINER!r} already")


def register(model: nn.Module, holder: str, name: str, part: nn.Module, log: UndoLog) -> str:
    """Registers a part in a module and returns the part's path."""
    container = container_of(model, holder)
    if container is None:
        container = Grown()
        container.train(model.get_submodule(holder).training)
        log.set_item(model.get_submodule(holder)._modules, CONTAINER, container)
    log.set_item(container._modules, name, part)
    return f"{holder}.{CONTAINER}.{name}" if holder else f"{CONTAINER}.{name}"


def join_after(module: nn.Module, key: str, hook: Callable[..., Any], log: UndoLog) -> None:
    """Lets ``hook(module, args, kwargs, output)`` follow every call of a module."""
    held: Any = module._forward_hooks
    with_kwargs: Any = module._forward_hooks_with_kwargs
    log.set_item(held, f"{_PREFIX}{key}", hook)
    log.set_item(with_kwargs, f"{_PREFIX}{key}", True)


def join_before(module: nn.Module, key: str, hook: Callable[..., Any], log: UndoLog) -> None:
    """Lets ``hook(module, args)`` come before every call of a module."""
    held: Any = module._forward_pre_hooks
    log.set_item(held, f"{_PREFIX}{key}", hook)


def without_grafts(module: nn.Module) -> nn.Module:
    """Takes what was grown out of a copy of a module: the hooks belong to the original."""
    for each in module.modules():
        for table in (
            each._forward_hooks,
            each._forward_hooks_with_kwargs,
            each._forward_pre_hooks,
        ):
            held: Any = table
            for key in [k for k in held if isinstance(k, str) and k.startswith(_PREFIX)]:
                del held[key]
        if isinstance(each._modules.get(CONTAINER), Grown):
            del each._modules[CONTAINER]
    return module
