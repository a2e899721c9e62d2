"""The configuration of a grown model of the transformers library, where one describes it."""

import copy
import re
from collections.abc import Iterator
from itertools import islice, product
from typing import Any

import torch
from torch import Tensor, nn

from neuro_morph._checking import change_between, outputs_of
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._morpher import Morpher
from neuro_morph._widening import tensors_of

_MOST = 64  # configurations that are tried
_ROUNDING = 1e-3
_OF_HEADS = re.compile(r"head|d_kv")

Key = tuple[str, ...]


def fit_config(morpher: Morpher) -> dict[str, tuple[Any, Any]]:
    """Changes ``model.config`` so that it builds the grown model; returns what has changed.

    ``model.save_pretrained(folder)`` then writes what ``from_pretrained(folder)`` reads. A
    configuration has one number for all layers: if they were not grown alike there is none, nor for
    new connections. The spec is the way then: ``morpher.spec.save(file)``, and later
    ``ArchitectureSpec.load(file).replay(type(model)(config))``.

    Numbers of the configuration that have a size that grew are tried. One is kept that builds a
    model with all the shapes of this one which computes what it does.

    Args:
        morpher: the run.

    Raises:
        TypeError: if the model has no configuration that it could be built from.
        GrowthRefusedError: if no configuration builds it, naming what differs; nothing has changed.
    """
    model: Any = morpher.model
    config = vars(model).get("config")
    if not hasattr(config, "to_dict"):
        raise TypeError(f"{type(model).__name__} has no configuration that it is built from")
    start = _built(model, config)
    first = _difference(model, start)
    for changes in _choices(config, model, start) if first is not None else ():
        tried = _changed(config, changes)
        try:
            other = _built(model, tried)
        except Exception:  # numbers that do not go together may fail in any way
            continue
        fits = _difference(model, other) is None and _numbers_agree(model, start, other)
        if fits and _computes_the_same(morpher, tried):
            old = {".".join(key): (_read(config, key), value) for key, value in changes.items()}
            for key, value in changes.items():
                _write(config, key, value)
            return old
    if first is not None:
        raise GrowthRefusedError(
            f"no {type(config).__name__} builds this {type(model).__name__}: {first}; save its "
            "spec beside its state, and replay that into the model as it was built"
        )
    return {}


def _built(model: nn.Module, config: Any) -> nn.Module:
    """Returns what a configuration builds, without numbers."""
    with torch.device("meta"):
        return type(model)(copy.deepcopy(config))


def _difference(model: nn.Module, other: nn.Module) -> str | None:
    """Returns which tensor of a model is not of the same shape in another, None if all are."""
    mine, its = _shapes(model), _shapes(other)
    for name in dict.fromkeys([*mine, *its]):
        if mine.get(name) != its.get(name):
            return f"{name!r} is {its.get(name, 'missing')}, not {mine.get(name, 'there')}"
    return None


def _numbers_agree(model: nn.Module, start: nn.Module, other: nn.Module) -> bool:
    """Whether another model has the numbers that growth has changed: shapes alone say too little.

    Twice as many heads and heads of twice the size have the same shapes. Numbers that growth has
    left alone as nothing uses them may differ.
    """
    first, its = _numbers(start), _numbers(other)
    changed = [((path, name), vars(model.get_submodule(path)).get(name)) for path, name in first]
    return all(its.get(key) == value for key, value in changed if value != first[key])


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors_of(model).items()}


def _numbers(model: nn.Module) -> dict[tuple[str, str], Any]:
    return {
        (path, name): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) in (int, float) and not name.startswith("_")
    }


def _choices(config: Any, model: nn.Module, other: nn.Module) -> Iterator[dict[Key, Any]]:
    """Yields new values for numbers of a configuration: those that became of such numbers."""
    became: dict[Any, list[Any]] = {}
    mine, its = _shapes(model), _shapes(other)
    pairs: list[tuple[Any, Any]] = []
    for shape in mine.keys() & its.keys():
        pairs += zip(its[shape], mine[shape], strict=False)
    for (path, name), value in _numbers(other).items():
        pairs.append((value, vars(model.get_submodule(path)).get(name)))
    for old, new in pairs:
        if new is not None and new != old and new not in became.setdefault(old, []):
            became[old].append(new)
    options = {key: [*became.get(v, []), v, *_heads(key, v, pairs)] for key, v in _held(config)}
    options = {key: tried for key, tried in options.items() if len(tried) > 1}
    for values in islice(product(*options.values()), _MOST):
        yield {
            key: value
            for key, value in zip(options, values, strict=True)
            if value != _read(config, key)
        }


def _heads(key: Key, value: Any, pairs: list[tuple[Any, Any]]) -> list[int]:
    """Returns numbers of heads that would make a size of one that they divide."""
    if type(value) is not int or value < 1 or not _OF_HEADS.search(key[-1]):
        return []
    sizes = {p for p in pairs if type(p[0]) is int and type(p[1]) is int and p[0] != p[1]}
    found = [value * new // old for old, new in sizes if not (old % value or value * new % old)]
    return sorted(set(found) - {value})


def _held(config: Any, lead: Key = ()) -> Iterator[tuple[Key, Any]]:
    for name, value in vars(config).items():
        if type(value) in (int, float):
            yield (*lead, name), value
        elif hasattr(value, "to_dict") and not lead:
            yield from _held(value, (name,))


def _read(config: Any, key: Key) -> Any:
    for name in key:
        config = getattr(config, name)
    return config


def _write(config: Any, key: Key, value: Any) -> None:
    setattr(_read(config, key[:-1]), key[-1], value)


def _changed(config: Any, changes: dict[Key, Any]) -> Any:
    tried = copy.deepcopy(config)
    for key, value in changes.items():
        _write(tried, key, value)
    return tried


def _computes_the_same(morpher: Morpher, config: Any) -> bool:
    """Whether a configuration builds a model that computes what this does, with any weights."""
    model = morpher.model
    with torch.random.fork_rng(devices=()):
        other, own = type(model)(config), copy.deepcopy(model)
    first = next(model.parameters())
    other.to(device=first.device, dtype=first.dtype)
    with torch.no_grad():
        for scale in (0.0, 1.0):
            own.load_state_dict({k: _noisy(v, scale) for k, v in model.state_dict().items()})
            other.load_state_dict(own.state_dict())
            mine, its = (outputs_of(each, morpher.inputs) for each in (own, other))
            if not change_between(mine, its).within(_ROUNDING if scale else morpher.tolerance):
                return False
    return True


def _noisy(tensor: Tensor, scale: float) -> Tensor:
    """Returns a tensor with noise added to its entries that makes products of rows of size 1."""
    if not scale or not tensor.is_floating_point() or tensor.dim() < 2:
        return tensor
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    return tensor + (scale * noise / tensor[0].numel() ** 0.5).to(tensor)
